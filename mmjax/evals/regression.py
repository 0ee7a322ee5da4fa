"""How well numbers are predicted: mean absolute and root mean squared error, Pearson's and the concordance correlation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmjax.contract import Artifact, Table
from mmjax.data.split import SplitView
from mmjax.evals._predictions import Predicted, Predictions
from mmjax.ops.regression import summary


class Regression(Predicted):
    """`mae`, `rmse`, `pearson`, `ccc` (Lin, 1989) of `<target>/prediction`, the means over its numbers.

    Beside each stands what the training split's `mean` reaches and, in the final evaluation, `only_<m>`: this model given
    one modality alone.

    Args:
        target, output: what is predicted, and the output if it is not `<target>/prediction`.
        train: the split that the mean is taken from.
        alone: whether each modality is also tried alone.
        by: a field of the source's examples, such as "subject": the figures of each group and their means, see `Predicted`.
        save: whether the predictions are kept as an artifact.
    """

    kind, suffix, operation = "value", "prediction", "number()"

    def __init__(
        self,
        target: str = "value",
        output: str | None = None,
        train: str = "train",
        alone: bool = True,
        by: str | None = None,
        save: bool = False,
    ):
        super().__init__(target, output, train, alone, by, save)

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """`ops/regression.py`'s summary."""
        return summary(outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1))

    def constants(self, seen: np.ndarray, found: Predictions) -> dict[str, np.ndarray]:
        """The training mean."""
        return {"mean": np.broadcast_to(seen.mean(axis=0), found.targets.shape)}

    def pictures(self, found: Predictions, view: SplitView) -> Iterator[tuple[str, Artifact]]:
        """The figures of each number, where there are several."""
        x, y = (a.reshape(len(a), -1) for a in found[:2])
        rows = [[f"number {i}", *summary(x[:, i : i + 1], y[:, i : i + 1]).values()] for i in range(x.shape[1])]
        yield "numbers", Table(["", "mae", "rmse", "pearson", "ccc"], rows)
