"""What is left of a model's score as one modality gets worse: curves over the severity of corruptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.config import ConfigError, DataError, nearest
from mmjax.contract import KINDS, Artifact, Lines, State, Table, kind
from mmjax.data.pp.builder import inserted, parse
from mmjax.data.split import SplitView
from mmjax.evals._by_target import FIRST, by_target
from mmjax.evals._predictions import beside, modalities
from mmjax.ops.robustness import relative_robustness

# By kind: what is done, at which severities, from mild to severe. Of images those of Hendrycks & Dietterich, 2019,
# 'Benchmarking Neural Network Robustness to Common Corruptions', where they have them.
USUAL: dict[str, dict[str, Sequence[float]]] = {
    "image": {
        "blur": (0.01, 0.02, 0.04, 0.06, 0.1),  # standard deviation, of the shorter side
        "pixel_noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, of the range
        "occlude": (0.1, 0.2, 0.3, 0.4, 0.5),  # of the area
        "jpeg": (25, 18, 15, 10, 7),  # quality
    },
    "audio": {"white_noise": (20, 10, 5, 0, -5), "silence": (0.1, 0.2, 0.3, 0.5, 0.7)},  # dB; of the stretches
    "text": {"typos": (0.02, 0.05, 0.1, 0.2, 0.3), "lose_words": (0.1, 0.2, 0.3, 0.5, 0.7)},  # of characters; of words
    "series": {"sensor_noise": (0.25, 0.5, 1.0, 1.5, 2.0), "drop_out": (0.1, 0.2, 0.3, 0.5, 0.7)},  # of the deviation; of the stretches
}
# Before which operations one is put, or last: corruptions are of strings, of clips, and of images that still are pixels.
BEFORE = {"text": ("tokens",), "audio": ("crop_or_pad",), "image": ("value_range", "hog")}


class Noise:
    """`<figure>/<modality>/<corruption>/<level>`: how the model scores when one modality is corrupted, the others are not.

    The figure is the `accuracy` of a `label...`, the `f1_micro` of `tags...`, the `mae` of a `value...`, as `classification`
    and `regression` have them. Level 0 is the clean evaluation's, exactly; levels 1, 2, ... are the severities in turn.
    Beside each stands what a constant reaches (`chance`, `majority`, `mean`). `<figure>/<modality>/<corruption>/relative`
    is the area under the curve (MultiBench's relative robustness), and `<figure>/<modality>/relative` its mean over the
    modality's corruptions. What compares methods (effective robustness) needs several of them: `study/comparison.py`.

    All are over the same examples, those that have the target and any modality. Corruptions are operations of
    `mmjax/data/pp/corruptions.py`, put into the run's own: behind all others on the host, of text before `tokens`, of
    audio before `crop_or_pad`, of images before `value_range` and `hog`; what is in `data.batch_pp` comes after them.

    Args:
        target, output: what is predicted, and the output if it is not the usual one of the target.
        ordinal: whether the logits are those of a head of `kind="ordinal"`.
        train: the split that the constants are learned from.
        corruptions: {modality: {operation: severities}}, in the place of USUAL's for its kind; {} leaves a modality alone. A kind
            ("series") stands for all modalities of it that are not named themselves.

    Raises:
        ConfigError: there is no such modality or operation.
    """

    def __init__(
        self,
        target: str = "label",
        output: str | None = None,
        ordinal: bool = False,
        train: str = "train",
        corruptions: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    ):
        self.of, self.figure = by_target(target, output, ordinal, train), FIRST[target.split("_", 1)[0]]
        self.corruptions = {m: {name: list(levels) for name, levels in of.items()} for m, of in (corruptions or {}).items()}

    def check(self, view: SplitView) -> None:
        """Whether the modalities are there and every corruption can be put into their operations."""
        self.of.check(view)
        for stream in self.corruptions:
            if stream not in (known := {*modalities(view), *KINDS}):
                raise ConfigError(f"noise: corruptions.{stream}: the run reads no such modality.{nearest(stream, known)}")
        for stream, _, _, pp in self._levels(view):
            parse(pp, stream, {"tokenizer": None}, "corruptions")

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float | Artifact]]:
        """Yields the curves and their areas; with `details` also a picture a modality."""
        every, figure = modalities(view), self.figure
        clean = self.of.predict(fns, state, view, [every])[every]
        constants = {name: {figure: of[figure]} for name, of in self.of.levels(fns, view, clean).items() if figure in of}
        first = self.of.measure(clean.outputs, clean.targets)[figure]
        curves: dict[str, dict[str, list[float]]] = {}
        for stream, name, _, pp in self._levels(view):
            found = self.of.predict(fns, state, view, [every], {stream: pp})[every]
            if not np.array_equal(found.rows, clean.rows):
                raise DataError(f"noise: {pp} leaves other examples than the run's operations: a corruption should take none away.")
            curves.setdefault(stream, {}).setdefault(name, [first]).append(self.of.measure(found.outputs, found.targets)[figure])
        for stream, of in curves.items():
            areas = {name: relative_robustness(np.array(curve)) for name, curve in of.items()}
            for name, curve in of.items():
                for level, value in enumerate(curve):
                    for key, number in beside({figure: value}, constants):
                        yield key.replace(figure, f"{figure}/{stream}/{name}/{level}", 1), number
                yield f"{figure}/{stream}/{name}/relative", areas[name]
            yield f"{figure}/{stream}/relative", float(np.mean(list(areas.values())))
            if details:
                most = max(map(len, of.values()))
                yield stream, Lines(dict(of), "level of severity, 0 is clean", figure)
                given = self._severities(stream)
                rows = [[name, *(f"{s:g}" for s in given[name]), *[""] * (most - len(curve))] for name, curve in of.items()]
                yield f"{stream}_severities", Table(["corruption", *(f"level {i}" for i in range(1, most))], rows)

    def _severities(self, stream: str) -> Mapping[str, Sequence[float]]:
        return next((of[name] for of in (self.corruptions, USUAL) for name in (stream, kind(stream)) if name in of), {})

    def _levels(self, view: SplitView) -> Iterator[tuple[str, str, int, str]]:
        """(modality, corruption, level, the modality's operations with it)."""
        for stream in modalities(view):
            for name, severities in self._severities(stream).items():
                for level, severity in enumerate(severities, start=1):
                    yield stream, name, level, inserted(view.data.pp[stream], f"{name}({severity!r})", BEFORE.get(kind(stream), ()))
