"""What is left of a model's score where modalities are missing at test time: every subset of them, beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmjax.config import ConfigError, DataError
from mmjax.contract import Artifact, Matrix, State, Table
from mmjax.data.examples import has
from mmjax.data.split import SplitView
from mmjax.evals._by_target import by_target
from mmjax.evals._predictions import Predictions, Subset, every_subset, modalities, short
from mmjax.evals.classification import Classification
from mmjax.ops.classification import by_class

ROWS = ("complete", "any")


class Missing:
    """The figures of `classification` or `regression`, whichever fits the target, of the model given some of the modalities.

    For each non-empty subset of the modalities that the run reads, `<figure>/<subset>` (`accuracy/image+text`, sorted by
    name), with the number `n` of its examples and what looks at none (`chance`, `majority`, `mean`) beside it; and
    `<figure>/mean`, the mean over all these subsets. The whole set is among them.

    All subsets are measured over the same examples, so that a difference between two of them is one of what the model was
    given and not of who was asked. By default these are the examples that have the target and every modality: none is
    missing but those that are taken away. With `rows="any"` they are all that have the target and any modality, and of a
    subset the model is given what an example has of it, which may be nothing: where data have gaps of their own the whole
    set's figure is then that of `classification`.

    Args:
        target, output: what is predicted, and the output if it is not the usual one of the target.
        ordinal: whether the logits are those of a head of `kind="ordinal"`.
        train: the split that the constants are learned from.
        rows: "complete" or "any", see above.

    Raises:
        ConfigError: there are more than six modalities.
        DataError: no example has all modalities.
    """

    def __init__(
        self, target: str = "label", output: str | None = None, ordinal: bool = False, train: str = "train", rows: str = "complete"
    ):
        if rows not in ROWS:
            raise ConfigError(f"missing: rows={rows!r} is unknown ({' or '.join(map(repr, ROWS))}).")
        self.of = by_target(target, output, ordinal, train)
        self.rows = rows

    def check(self, view: SplitView) -> None:
        """Whether there are few enough modalities, and examples with the target and all of them."""
        every_subset(view, "missing")
        self.of.check(view)
        source = view.data.source(view.split)
        if self.rows == "complete" and not any(all(has(source, i, m) for m in modalities(view)) for i in range(len(source))):
            raise self._none_complete(view)

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float | Artifact]]:
        """Yields the figures of every subset and their means; with `details` also a table, and of classes a heat map."""
        found = self.of.predict(fns, state, view, every_subset(view, "missing"))
        whole = found[modalities(view)]
        which = np.all(list(whole.here.values()), axis=0) if self.rows == "complete" else np.ones(len(whole.rows), bool)
        if not which.any():
            raise self._none_complete(view)
        found = {subset: predictions.taken(which) for subset, predictions in found.items()}
        levels = self.of.levels(fns, view, whole.taken(which))
        measured = {subset: self.of.measure(p.outputs, p.targets) for subset, p in found.items()}
        n = int(which.sum())
        for figure in measured[modalities(view)]:
            known = {level: of[figure] for level, of in levels.items() if figure in of}
            for subset, figures in measured.items():
                name = f"{figure}/{'+'.join(subset)}"
                yield name, figures[figure]
                yield from ((f"{name}/{level}", value) for level, value in {**known, "n": float(n)}.items())
            yield f"{figure}/mean", float(np.mean([figures[figure] for figures in measured.values()]))
            yield from ((f"{figure}/mean/{level}", value) for level, value in known.items())
        if details:
            yield "subsets", self._table(measured, n)
            if isinstance(self.of, Classification):
                yield "classes", self._classes(self.of, found, view)

    def _none_complete(self, view: SplitView) -> DataError:
        every = ", ".join(modalities(view))
        return DataError(f"missing: no example of the {view.split} split has all of {every}. With rows='any' it need not.")

    def _table(self, measured: Mapping[Subset, Mapping[str, float]], n: int) -> Table:
        """A row a subset: its figures, and how much the first of them differs from that of all modalities."""
        *_, whole = measured.values()
        names, first = short(list(measured)[-1]), next(iter(whole))
        rows = [
            [_named(subset, names), *(figures[f] for f in whole), figures[first] - whole[first]] for subset, figures in measured.items()
        ]
        asked = "every modality" if self.rows == "complete" else "any modality"
        note = f"All over the same {n:,} examples, those that have the target and {asked}."
        return Table(["given", *(f.replace("_", " ") for f in whole), f"{first.replace('_', ' ')} against all"], rows, note)

    def _classes(self, of: Classification, found: Mapping[Subset, Predictions], view: SplitView) -> Matrix:
        """What is recognised of each class given each subset."""
        *_, whole = found
        recall = []
        for predictions in found.values():
            taken, right = of.answers(predictions)
            recall.append(by_class(taken, right)[1])
        number = right.sum(axis=0)
        there, classes = np.flatnonzero(number), of.names(view, len(number))
        shown = [c for c in of.most_frequent(number) if number[c]]
        values = [[float(r[there].mean()), *r[shown].tolist()] for r in recall]
        said = "share of a class's examples (columns; first the mean of all classes) that is recognised, by what is given (rows)"
        return Matrix(values, [_named(subset, short(whole)) for subset in found], ["mean", *(classes[c] for c in shown)], said)


def _named(subset: Subset, names: Mapping[str, str]) -> str:
    return " + ".join(names[m] for m in subset)
