"""What each modality adds to a model's score and to single decisions: the exact Shapley value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from mmjax.config import ConfigError
from mmjax.contract import Artifact, Bars, State, Table
from mmjax.data.split import SplitView
from mmjax.evals._predictions import Predicted, Predictions, Subset, beside, check_classes, every_subset, modalities, short
from mmjax.ops.classification import frequencies
from mmjax.ops.shapley import members, restricted, shapley


class Contribution(Predicted):
    """`accuracy`, and `probability`, the mean probability of the right class; what each modality adds to them as
    `<figure>/shapley/<m>`, the exact Shapley value (Shapley, 1953; of a model's features Lundberg & Lee, 2017, eq. 4).

    The players are the modalities, and what some of them reach is what this model says given them alone. What none reaches
    is the frequencies of classes in the training split and their most frequent class: `majority`. So the values add up to
    the figure less its `majority`. The game is played for every example among the modalities that it has, the others add
    exactly 0 there; the value for the split is the mean over all examples that have the target and any modality.

    Beside each figure stand `chance`; `majority`; `best_single`, this model given the one modality with which it is most
    accurate on the split `select` (on `select` itself it is left out), or the frequencies where an example lacks it; and
    `late_average`, the mean of its probabilities given each modality alone. A model trained on one modality may well be
    better than this one given that modality alone.

    Args:
        target, output: what is predicted, and the output if it is not `<target>/logits`.
        train: the split that the frequencies are taken from.
        select: the split that the best modality is chosen on, or None.
        shown: how many decisions are shown, evenly spread over the split.

    Raises:
        ConfigError: there are more than six modalities.
    """

    def __init__(
        self,
        target: str = "label",
        output: str | None = None,
        train: str = "train",
        select: str | None = "validation",
        shown: int = 12,
    ):
        super().__init__(target, output, train, alone=False, select=select)
        if shown < 1:
            raise ConfigError(f"contribution: shown={shown} should be at least 1.")
        self.shown = shown

    def check(self, view: SplitView) -> None:
        """Whether there are few enough modalities, and the splits have the target."""
        every_subset(view, "contribution")
        super().check(view)

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Of probabilities [N, C]."""
        return {name: float(values.mean()) for name, values in _reached(outputs, targets).items()}

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float | Artifact]]:
        """Yields the figures, what stands beside them and every modality's share; with `details` also pictures of these."""
        every, subsets = modalities(view), every_subset(view, "contribution")
        found = self.predict(fns, state, view, subsets)
        whole = found[every]
        check_classes(whole, self.output)
        prior = frequencies(self.seen(fns, view), whole.outputs.shape[1])
        said = _probabilities(found, prior)

        best = self._best(fns, state, view, prior)
        compared = {"majority": said[()], **({"best_single": said[best]} if best else {})}
        here = np.stack([whole.here[m] for m in every])[..., None]
        compared["late_average"] = np.sum([said[m,] * h for m, h in zip(every, here, strict=True)], axis=0) / here.sum(axis=0)
        levels = {name: self.measure(p, whole.targets) for name, p in compared.items()}
        levels = {"chance": dict.fromkeys(("accuracy", "probability"), 1 / len(prior)), **levels}
        yield from beside(self.measure(said[every], whole.targets), levels)

        having = np.sum([whole.here[m].astype(int) << i for i, m in enumerate(every)], axis=0)
        reached = [_reached(said[tuple(every[i] for i in s)], whole.targets) for s in members(len(every))]
        added = {name: shapley(restricted(np.stack([r[name] for r in reached]), having)) for name in reached[0]}
        for name, values in added.items():
            yield from ((f"{name}/shapley/{m}", float(value)) for m, value in zip(every, values.mean(axis=1), strict=True))
        if details:
            names = short(every)
            bars = {f"of the {name}": values.mean(axis=1).tolist() for name, values in added.items()}
            yield "contributions", Bars(list(names.values()), bars, "Shapley value of each modality")
            yield "compared", self._compared({m: said[m,] for m in every}, best, whole, levels, self.measure(said[every], whole.targets))
            yield "decisions", self._decisions(added["probability"], said[every], whole, view)

    def _best(self, fns: Any, state: State, view: SplitView, prior: np.ndarray) -> Subset:
        """The modality that is best on another split, () where there is none to choose it on."""
        if (selecting := self.selecting(view)) is None:
            return ()
        held = self.predict(fns, state, selecting, [(m,) for m in modalities(view)])
        check_classes(next(iter(held.values())), self.output)
        figures = {subset: self.measure(p, held[subset].targets)["accuracy"] for subset, p in _probabilities(held, prior).items() if subset}
        return max(figures, key=lambda subset: figures[subset])

    def _compared(
        self,
        alone: Mapping[str, np.ndarray],
        best: Subset,
        whole: Predictions,
        levels: Mapping[str, Mapping[str, float]],
        figures: Mapping[str, float],
    ) -> Table:
        """What each modality alone, and each way of using several, reaches."""
        names = short(tuple(alone))
        rows = {name.replace("_", " ") + (f", {names[best[0]]}" if name == "best_single" else ""): found for name, found in levels.items()}
        rows |= {f"{names[m]} alone": self.measure(p, whole.targets) for m, p in alone.items()}
        gaps = {names[m]: int((~here).sum()) for m, here in whole.here.items() if not here.all()}
        note = f"{len(whole.rows):,} examples. " + " ".join(
            f"{count:,} lack {name} and get the majority's." for name, count in gaps.items()
        )
        table = [[name, found["accuracy"], found["probability"]] for name, found in {**rows, "all": figures}.items()]
        return Table(["", "accuracy", "probability"], table, note)

    def _decisions(self, added: Float[np.ndarray, "M N"], p: Float[np.ndarray, "N C"], whole: Predictions, view: SplitView) -> Bars:
        """Some examples: what each modality adds to the probability of the right class."""
        source, known = view.data.source(view.split), view.classes(self.target)
        names = list(known or map(str, range(p.shape[1])))
        labels = []
        picked = np.unique(np.linspace(0, len(whole.rows) - 1, min(self.shown, len(whole.rows))).round().astype(int))
        for i in picked:
            right, answer = int(whole.targets[i]), int(p[i].argmax())
            taken = "" if right == answer else f", taken for {names[answer]}"
            row = int(whole.rows[i])
            labels.append(f"{source[row].get('id', row)}: {names[right]} ({p[i, right]:.2f}{taken})")
        series = {m: values[picked].tolist() for m, values in zip(short(modalities(view)).values(), added, strict=True)}
        said = "what each modality adds on the way from the right class's frequency in training to its probability (in brackets)"
        return Bars(labels, series, said)


def _probabilities(found: Mapping[Subset, Predictions], prior: Float[np.ndarray, " C"]) -> dict[Subset, Float[np.ndarray, "N C"]]:
    """The probabilities of classes given each subset; `prior` where an example has none of it, and of the empty one."""
    said = {}
    for subset, predictions in found.items():
        some = np.any([predictions.here[m] for m in subset], axis=0)
        said[subset] = np.where(some[:, None], softmax(predictions.outputs.astype(np.float64), axis=1), prior[None])
    return {(): np.broadcast_to(prior, next(iter(said.values())).shape), **said}


def _reached(p: Float[np.ndarray, "N C"], targets: np.ndarray) -> dict[str, Float[np.ndarray, " N"]]:
    """Of each example whether the likeliest class is right, and the probability of the right one."""
    right = np.take_along_axis(p, targets[:, None], axis=1)[:, 0]
    return {"accuracy": (p.argmax(axis=1) == targets).astype(np.float64), "probability": right}
