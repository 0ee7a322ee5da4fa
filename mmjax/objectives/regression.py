"""Losses of predicted numbers: absolute, squared, Huber's, and one minus the concordance correlation."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError, nearest
from mmjax.objectives._supervised import Supervised, mean_of
from mmjax.ops.masks import zero_where_not

LOSSES = ("l1", "l2", "huber", "ccc")


class Regression(Supervised):
    """`<target>/prediction` against `<target>`, [B] or [B, D]; the mean over numbers and rows.

    `l2` is the squared error; `huber` half of it up to `delta` and linear beyond (Huber, 1964, eq. 1); `ccc` is 1 - the
    concordance correlation coefficient of Lin, 1989, 'A Concordance Correlation Coefficient', over the rows of the
    batch, in the mean over the D numbers.

    Args:
        target, output: what is predicted, and the output if it is not `<target>/prediction`.
        loss: "l1", "l2", "huber" or "ccc".
        delta: where Huber's loss becomes linear.
        learned_weight: see `_supervised.py`; the squared errors are then a Gaussian's.
    """

    kind, suffix = "value", "prediction"

    def __init__(
        self, target: str = "value", output: str | None = None, loss: str = "l2", delta: float = 1.0, learned_weight: bool = False
    ):
        super().__init__(target, output, learned_weight)
        if loss not in LOSSES:
            raise ConfigError(f"regression: loss={loss!r} is unknown.{nearest(str(loss), LOSSES)}")
        if delta <= 0:
            raise ConfigError(f"regression: delta={delta} should be above 0.")
        self.loss, self.delta = loss, delta
        self.gaussian, self.batch_wise = loss == "l2", loss == "ccc"

    def measure(
        self, output: Float[Array, "B ..."], target: Float[Array, "B ..."], here: Bool[Array, " B"]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """The mean over rows, and the mean absolute error."""
        x, y = (a.reshape(a.shape[0], -1) for a in (output, target))
        size, weight = jnp.abs(x - y), here.astype(jnp.float32)
        mae = {"mae": mean_of(size.mean(axis=1), weight)}
        if self.loss == "ccc":
            some = jnp.where(weight.sum() > 0, 1.0, 0.0)
            return some * (1 - concordance(x, y, here).mean()), weight.sum(), mae
        rows = {
            "l1": lambda: size,
            "l2": lambda: jnp.square(x - y),
            "huber": lambda: jnp.where(size <= self.delta, 0.5 * jnp.square(x - y), self.delta * (size - 0.5 * self.delta)),
        }[self.loss]()
        return mean_of(rows.mean(axis=1), weight), weight.sum(), mae

    @classmethod
    def tiny(cls) -> tuple[Regression, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the model's output beside the target."""
        rng = np.random.default_rng(0)
        prediction, value = rng.normal(size=(2, 8, 3)).astype(np.float32)
        return cls(loss="ccc"), {"value/prediction": prediction, "value": value, "value/present": np.arange(8) != 3}


def concordance(x: Float[Array, "B D"], y: Float[Array, "B D"], here: Bool[Array, " B"], epsilon: float = 1e-8) -> Float[Array, " D"]:
    """The concordance correlation coefficient over the rows that are `here`: 2 cov / (var x + var y + (mean x - mean y)^2)."""
    count = jnp.maximum(here.sum(), 1).astype(x.dtype)
    mean_x, mean_y = (zero_where_not(here, a).sum(axis=0) / count for a in (x, y))
    dx, dy = (zero_where_not(here, a - mean[None]) for a, mean in ((x, mean_x), (y, mean_y)))
    spread = (dx**2).sum(axis=0) / count + (dy**2).sum(axis=0) / count + (mean_x - mean_y) ** 2
    return 2 * (dx * dy).sum(axis=0) / count / (spread + epsilon)
