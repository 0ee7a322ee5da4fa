"""k nearest neighbours by cosine similarity, with votes weighted by it: Wu et al., 2018, 'Unsupervised Feature Learning via
Non-Parametric Instance Discrimination', sec. 3.4, which Caron et al., 2021 (DINO) measure by, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmjax.config import ConfigError
from mmjax.evals._features import Probe, Task
from mmjax.ops.classification import ranks, summary
from mmjax.ops.retrieval import unit


@dataclass(kw_only=True)
class KNN(Probe):
    """A neighbour's vote is exp(similarity / temperature); k is chosen on held-out examples.

    Args:
        k: the numbers of neighbours to choose from.
        temperature: 0.07 in both papers.
        stream, label, output, train, select, limit, baseline: as `Probe` says.
    """

    k: Sequence[int] = (1, 5, 10, 20, 50, 100, 200)
    temperature: float = 0.07

    def __post_init__(self):
        super().__post_init__()
        if not self.k or min(self.k) < 1 or self.temperature <= 0:
            raise ConfigError(f"knn: k={tuple(self.k)} should be numbers of at least 1, and temperature={self.temperature} above 0.")

    def measure(self, task: Task) -> tuple[dict[str, float], str]:
        """`summary`'s figures, and k."""
        held = votes(task.train.x, task.train.y, task.held.x, task.classes, self.k, self.temperature)
        score = {k: np.mean(ranks(held[k], task.held.y) == 0) for k in self.k}
        k = max(self.k, key=lambda k: (score[k], -k))
        found = votes(*task.known, task.test.x, task.classes, [k], self.temperature)[k]
        return summary(ranks(found, task.test.y), task.test.y, task.classes), f"k {k}"


def votes(
    x: Float[np.ndarray, "N D"],
    y: Int[np.ndarray, " N"],
    asked: Float[np.ndarray, "M D"],
    classes: int,
    ks: Sequence[int],
    temperature: float,
) -> dict[int, Float[np.ndarray, "M C"]]:
    """{k: the votes for every class of the k of `x` that are nearest to each of `asked`}."""
    bank, asked, most = unit(x), unit(asked), min(max(ks), len(x))
    found = {k: np.zeros((len(asked), classes)) for k in ks}
    for start in range(0, len(asked), 1_024):
        similarity = asked[start : start + 1_024] @ bank.T
        near = np.argpartition(-similarity, most - 1, axis=1)[:, :most]
        near = np.take_along_axis(near, np.argsort(-np.take_along_axis(similarity, near, axis=1), axis=1, kind="stable"), axis=1)
        weights = np.exp((np.take_along_axis(similarity, near, axis=1) - 1) / temperature)  # - 1: so that none is huge
        rows = np.arange(start, start + len(near))[:, None]
        for k in ks:
            np.add.at(found[k], (rows, y[near[:, :k]]), weights[:, :k])
    return found
