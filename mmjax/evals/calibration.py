"""Whether a classifier is right as often as it says, as it is and with a temperature fitted on other data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mmjax.config import ConfigError
from mmjax.contract import Artifact, Reliability, State, Table
from mmjax.data.split import SplitView
from mmjax.evals._predictions import Predicted, Predictions, beside, check_classes, modalities
from mmjax.ops import calibration
from mmjax.ops.classification import frequencies

SCORES = ("brier", "nll")


class Calibration(Predicted):
    """Of the softmax of `<target>/logits`: `ece`, the expected calibration error over bins of equal width, `ece_equal_mass`
    over bins with equally many examples, the `brier` score, from 0 to 2, and the `nll` in nats.

    Beside the last two stand `chance`, equal probabilities, and `majority`, the frequencies of classes in the training split;
    not beside the errors, for a constant has hardly any. `scaled/...` are the same figures of the logits divided by one
    temperature, `scaled/temperature`, that is fitted on the split `select` (Guo et al., 2017, sec. 4.2), never on the one
    that is reported: on `select` itself there are none. With few examples a bin errs by chance, and the errors of a perfect
    classifier are above 0.

    Args:
        target, output: what is predicted, and the output if it is not `<target>/logits`.
        train: the split that the frequencies are taken from.
        select: the split that the temperature is fitted on, or None for no temperature.
        bins: how many bins of confidence there are.
    """

    def __init__(
        self,
        target: str = "label",
        output: str | None = None,
        train: str = "train",
        select: str | None = "validation",
        bins: int = 15,
    ):
        super().__init__(target, output, train, alone=False, select=select)
        if bins < 1:
            raise ConfigError(f"calibration: bins={bins} should be at least 1.")
        self.bins = bins

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """`ops/calibration.py`'s summary."""
        return calibration.summary(outputs, targets, self.bins)

    def constants(self, seen: np.ndarray, found: Predictions) -> dict[str, np.ndarray]:
        """The frequencies of classes in the training split, as logits."""
        share = np.maximum(frequencies(seen, found.outputs.shape[1]), 1e-6)
        return {"majority": np.tile(np.log(share), (len(found.targets), 1))}

    def known(self, found: Predictions) -> dict[str, dict[str, float]]:
        """What equal probabilities reach."""
        classes = found.outputs.shape[1]
        return {"chance": {"brier": 1 - 1 / classes, "nll": float(np.log(classes))}}

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float | Artifact]]:
        """Yields figures, and those with the temperature; with `details` also a reliability diagram of each."""
        every = modalities(view)
        found = self.predict(fns, state, view, [every])[every]
        check_classes(found, self.output)
        levels = {level: {name: known[name] for name in SCORES} for level, known in self.levels(fns, view, found).items()}
        yield from beside(self.measure(found.outputs, found.targets), levels)
        drawings = {"as it is": found.outputs}
        if selecting := self.selecting(view):
            held = self.predict(fns, state, selecting, [every])[every]
            check_classes(held, self.output)
            t = calibration.temperature(held.outputs, held.targets)
            scaled = found.outputs / t
            drawings[f"with temperature {t:.3g}"] = scaled
            yield from ((f"scaled/{name}", value) for name, value in self.measure(scaled, found.targets).items())
            yield "scaled/temperature", t
            if details:
                low, high = calibration.TEMPERATURES
                said = f"Sought from {low:g} to {high:g}: at the ends every example is right, or the logits tell nothing."
                yield "temperature", Table(["temperature", "fitted on", "examples"], [[t, self.select, len(held.rows)]], said)
        if details:
            yield "reliability", Reliability({name: self._bins(z, found.targets) for name, z in drawings.items()})

    def _bins(self, logits: np.ndarray, targets: np.ndarray) -> list[tuple[float, float, int, float, float]]:
        edges = calibration.equal_width(self.bins)
        bins = calibration.binned(*calibration.confident(logits, targets), edges)
        count, confidence, accuracy = (x.tolist() for x in bins)
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), count, confidence, accuracy, strict=True))
