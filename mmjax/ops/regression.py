"""How good predicted numbers are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def pearson(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> float:
    """The linear correlation; 0 where one of the two does not vary."""
    dx, dy = x - x.mean(), y - y.mean()
    size = np.sqrt((dx**2).sum() * (dy**2).sum())
    return float((dx * dy).sum() / size) if size > 1e-12 else 0.0


def concordance(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> float:
    """Lin, 1989: 2 cov / (var x + var y + (mean x - mean y)^2), with variances over N; 0 where neither varies."""
    spread = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    return float(2 * np.mean((x - x.mean()) * (y - y.mean())) / spread) if spread > 1e-12 else 0.0


def summary(predicted: Float[np.ndarray, "N D"], values: Float[np.ndarray, "N D"]) -> dict[str, float]:
    """`mae`, `rmse`, `pearson` and `ccc`, the means over the D numbers."""
    predicted, values = predicted.astype(np.float64), values.astype(np.float64)
    pairs = list(zip(predicted.T, values.T, strict=True))
    return {
        "mae": float(np.abs(predicted - values).mean()),
        "rmse": float(np.mean(np.sqrt(((predicted - values) ** 2).mean(axis=0)))),
        "pearson": float(np.mean([pearson(x, y) for x, y in pairs])),
        "ccc": float(np.mean([concordance(x, y) for x, y in pairs])),
    }
