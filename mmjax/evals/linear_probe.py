"""Linear probe: multinomial logistic regression on frozen features, as Radford et al., 2021, 'CLIP', app. A.3, do it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmjax.config import ConfigError
from mmjax.evals._features import Probe, Task
from mmjax.ops.classification import ranks, summary


@dataclass(kw_only=True)
class LinearProbe(Probe):
    """L-BFGS with at most 1,000 iterations; the strength of the L2 penalty is searched for on held-out examples.

    The search tries 1e-6, 1e-4, ..., 1e6 and then halves the distance around the best until there are 8 steps a decade:
    15 fits and a last one, seconds for some thousand examples, minutes for the `limit`.

    Args:
        l2: the strength of the penalty (1 / C of scikit-learn); None searches for it.
        stream, label, output, train, select, limit, baseline: as `Probe` says.
    """

    l2: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.l2 is not None and self.l2 <= 0:
            raise ConfigError(f"linear_probe: l2={self.l2} should be above 0.")

    def measure(self, task: Task) -> tuple[dict[str, float], str]:
        """`summary`'s figures, and the strength of the penalty."""

        def accuracy(l2: float) -> float:
            found = logits(task.train.x, task.train.y, task.held.x, task.classes, l2)
            return float(np.mean(found.argmax(axis=1) == task.held.y))

        l2 = self.l2 or search(accuracy)
        rank = ranks(logits(*task.known, task.test.x, task.classes, l2), task.test.y)
        return summary(rank, task.test.y, task.classes), f"L2 {l2:.3g}"


def search(score: Callable[[float], float]) -> float:
    """The strength from 1e-6 to 1e6 with the best score, to an eighth of a decade; the stronger of equals."""
    tried = {float(e): score(10.0**e) for e in range(-6, 7, 2)}
    for step in (1.0, 0.5, 0.25, 0.125):
        best = max(tried, key=lambda e: (tried[e], e))
        tried |= {e: score(10.0**e) for e in (best - step, best + step) if -6 <= e <= 6}
    return 10.0 ** max(tried, key=lambda e: (tried[e], e))


def logits(
    x: Float[np.ndarray, "N D"], y: Int[np.ndarray, " N"], asked: Float[np.ndarray, "M D"], classes: int, l2: float
) -> Float[np.ndarray, "M C"]:
    """Of every class for `asked`, learned from `x` and `y`; minus infinity for classes without an example there."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # More threads than free cores wait for each other at every one of the many small products: up to 30 times as long.
    with threadpool_limits(max(1, (os.cpu_count() or 1) // 2)), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 1,000 iterations are the protocol's
        model = LogisticRegression(C=1 / l2, max_iter=1_000).fit(x, y)
    found = np.full((len(asked), classes), -np.inf)
    scores = model.decision_function(asked)
    found[:, model.classes_] = scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1) / 2
    return found
