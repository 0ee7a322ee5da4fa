"""What evaluators of predictions share: a model's outputs for a target, given all or some of the modalities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.config import ConfigError, DataError, nearest
from mmjax.contract import TARGETS, Arrays, Artifact, Bars, State, Table, kind, present, streams
from mmjax.data.split import SplitView

Subset = tuple[str, ...]  # modalities, sorted
MOST = 6  # modalities of which every subset is evaluated
SHOWN = 40  # groups up to which each has a bar


class Predictions(NamedTuple):
    """The outputs and targets of the examples that have the target and any modality."""

    outputs: np.ndarray  # [N, ...]
    targets: np.ndarray  # [N, ...]
    rows: np.ndarray  # [N] int, their places in the split
    here: Mapping[str, np.ndarray]  # {modality: bool [N]}, which of them have it

    def taken(self, which: np.ndarray) -> Predictions:
        """Those of some rows, bool [N]."""
        return Predictions(self.outputs[which], self.targets[which], self.rows[which], {m: h[which] for m, h in self.here.items()})


class Predicted:
    """Measures `<target>/<suffix>` of the model against `<target>` on a split.

    Beside every figure stands what a constant reaches that is learned from the split `train`, and with `details` also
    `only_<m>`: the same model at test time, given of all modalities `<m>` alone, over the same examples (those that lack
    it get what the model says of nothing). That tells what this model makes of one modality, not what a model trained on
    it would reach: train one with a single encoder for that.

    `by` is a field of the source's examples, such as the person who was recorded. With `details` stand then under
    `<figure>/by/<group>` the figure of each group and the number `n` of its examples, and under `<figure>/by/mean` the mean
    over groups, which counts every group once. An example without the field is in none; a "/" in a group's name becomes "|".

    With `save` the predictions are an artifact, too: `outputs` and `targets` of every example, its place in the split as `rows`
    and, with `by`, its `group`.
    """

    kind = "label"
    suffix = "logits"
    operation = "index()"

    def __init__(
        self,
        target: str,
        output: str | None,
        train: str,
        alone: bool,
        by: str | None = None,
        save: bool = False,
        select: str | None = None,
    ):
        if target.split("_", 1)[0] != self.kind:
            raise ConfigError(f"target={target!r} should be a {self.kind!r}, as in '{self.kind}_task'.")
        if self.kind not in TARGETS:
            raise ConfigError(f"{self.kind!r} is no target.")
        self.target, self.output, self.train, self.alone = target, output or f"{target}/{self.suffix}", train, alone
        self.by, self.save, self.select = by, save, select

    def pp(self, view: SplitView, *, only_target: bool = False) -> dict[str, str]:
        """The run's operations with those of the target, which need not stand in the config."""
        own = {self.target: view.data.pp.get(self.target, self.operation)}
        return own if only_target else {**view.data.pp, **own}

    def check(self, view: SplitView) -> None:
        """Whether the splits have the target, and the examples what they are grouped by."""
        view.examples(self.pp(view))
        view.other(self.train).examples(self.pp(view, only_target=True))
        if selecting := self.selecting(view):
            selecting.examples(self.pp(view))
        if self.by:
            groups(view, self.by, np.arange(min(len(view.data.source(view.split)), 100)))

    def selecting(self, view: SplitView) -> SplitView | None:
        """The split `select`, on which something is fitted or chosen; None where that is the very one that is reported."""
        return None if self.select in (None, view.split) else view.other(self.select)

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Figures by name."""
        raise NotImplementedError

    def constants(self, seen: np.ndarray, found: Predictions) -> dict[str, np.ndarray]:
        """Outputs that look at no example, by what they are called: learned from the targets `seen`."""
        raise NotImplementedError

    def pictures(self, found: Predictions, view: SplitView) -> Iterator[tuple[str, Artifact]]:
        """What is shown in detail."""
        raise NotImplementedError

    def known(self, found: Predictions) -> dict[str, dict[str, float]]:
        """Further levels that a figure is compared with, {level: {figure: value}}."""
        return {}

    def levels(self, fns: Any, view: SplitView, found: Predictions) -> dict[str, dict[str, float]]:
        """All that a figure is compared with that looks at no example, {level: {figure: value}}."""
        constants = self.constants(self.seen(fns, view), found)
        return {**self.known(found), **{name: self.measure(outputs, found.targets) for name, outputs in constants.items()}}

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float | Artifact]]:
        """Yields figures, each with what stands beside it; with `details` also those of groups, tables and pictures."""
        every = modalities(view)
        alone = [(m,) for m in every] if details and self.alone and len(every) > 1 else []
        found = self.predict(fns, state, view, [every, *alone])
        whole = found[every]
        levels = self.levels(fns, view, whole)
        levels |= {f"only_{m}": self.measure(found[m,].outputs, whole.targets) for (m,) in alone}
        figures = self.measure(whole.outputs, whole.targets)
        yield from beside(figures, levels)
        if not details:
            return
        yield from self.pictures(whole, view)
        group = groups(view, self.by, whole.rows) if self.by else None
        if group is not None:
            yield from self._by_group(group, whole, figures)
        if self.save:
            kept = {"outputs": whole.outputs, "targets": whole.targets, "rows": whole.rows}
            yield "predictions", Arrays(kept if group is None else {**kept, "group": group})

    def _by_group(self, group: np.ndarray, whole: Predictions, figures: Mapping[str, float]) -> Iterator[tuple[str, float | Artifact]]:
        """The figures of each group with the number of its examples, their means over groups, and a picture of the first."""
        names = sorted(set(group.tolist()) - {""}, key=lambda name: (len(name) if name.isdigit() else np.inf, name))
        found = {}
        for name in names:
            mine = group == name
            found[name] = {**self.measure(whole.outputs[mine], whole.targets[mine]), "n": float(mine.sum())}
        for figure in figures:
            having = {name: measured for name, measured in found.items() if figure in measured}
            for name, measured in having.items():
                yield from ((f"{figure}/by/{name}", measured[figure]), (f"{figure}/by/{name}/n", measured["n"]))
            if having:
                yield f"{figure}/by/mean", float(np.mean([measured[figure] for measured in having.values()]))
        first, count = next(iter(figures)), {name: int(measured["n"]) for name, measured in found.items()}
        if len(found) > SHOWN:
            table = [[name, count[name], measured[first]] for name, measured in found.items()]
            yield f"by_{self.by}", Table([str(self.by), "examples", first], table)
        else:
            said = f"{first}, by {self.by} (how many examples there are)"
            labels = [f"{name} ({count[name]:,})" for name in found]
            yield f"by_{self.by}", Bars(labels, {first: [measured[first] for measured in found.values()]}, said)

    def predict(
        self, fns: Any, state: State, view: SplitView, subsets: Sequence[Subset], pp: Mapping[str, str] | None = None
    ) -> dict[Subset, Predictions]:
        """What the model says given each of `subsets` of the modalities, over the same examples.

        With `pp`, other operations of some streams, that is of this call alone: nothing of it is kept.

        Each batch is read once for all of them, and which modalities there are is data: they share a program. What other
        evaluators of the same evaluation have asked for (`fns.kept`) is not computed again.
        """
        if pp is not None:
            return self._pass(fns, state, view, subsets, pp)
        kept = _kept(fns).setdefault((id(view.data), view.split, self.target, self.output), {})
        if wanted := [subset for subset in dict.fromkeys(subsets) if subset not in kept]:
            kept |= self._pass(fns, state, view, wanted)
        return {subset: kept[subset] for subset in subsets}

    def _pass(
        self, fns: Any, state: State, view: SplitView, subsets: Sequence[Subset], pp: Mapping[str, str] | None = None
    ) -> dict[Subset, Predictions]:
        every = modalities(view)
        outputs: dict[Subset, list[Any]] = {subset: [] for subset in subsets}
        targets, here = [], []
        for batch in view.batches({**self.pp(view), **(pp or {})}, kept=pp is None):
            for subset, found in outputs.items():
                found.append(fns.outputs(state, given(batch, subset), (self.output,))[self.output].astype(jnp.float32))
            targets.append(fns.replicated(batch[self.target]))
            here.append(fns.replicated(jnp.stack([present(batch, m) for m in (self.target, *every)], axis=1)))
        y, have = (np.concatenate(jax.device_get(a)) for a in (targets, here))
        rows = np.flatnonzero(have[:, 0] & have[:, 1:].any(axis=1))
        if not len(rows):
            raise DataError(f"No example of the {view.split} split has {self.target!r} and something to tell it by.")
        has = dict(zip(every, have[rows, 1:].T, strict=True))
        found = {subset: Predictions(np.concatenate(jax.device_get(a))[rows], y[rows], rows, has) for subset, a in outputs.items()}
        if not all(np.isfinite(p.outputs).all() for p in found.values()):
            raise DataError(f"The model's {self.output} is not finite on the {view.split} split.")
        return found

    def seen(self, fns: Any, view: SplitView) -> np.ndarray:
        """The targets of the training examples."""
        name, kept = (id(view.data), self.train, self.target), _kept(fns)
        if name not in kept:
            seen = []
            for batch in view.other(self.train).batches(self.pp(view, only_target=True)):
                y, here = jax.device_get((fns.replicated(batch[self.target]), fns.replicated(present(batch, self.target))))
                seen.append(y[here])
            kept[name] = np.concatenate(seen)
        return kept[name]


def beside(figures: Mapping[str, float], levels: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    """Each figure, and what it is compared with."""
    for name, value in figures.items():
        yield name, value
        yield from ((f"{name}/{level}", known[name]) for level, known in levels.items() if name in known)


def _kept(fns: Any) -> dict[Any, Any]:
    return {} if fns.kept is None else fns.kept


def modalities(view: SplitView) -> Subset:
    """All modalities that the run reads."""
    return tuple(sorted(m for m in view.data.pp if kind(m) not in TARGETS))


def every_subset(view: SplitView, name: str) -> list[Subset]:
    """Those of the run's modalities, all but the empty one, smaller ones first.

    Raises:
        ConfigError: there are more than MOST modalities.
    """
    every = modalities(view)
    if len(every) > MOST:
        raise ConfigError(
            f"{name}: {view.data.path}.pp reads {len(every)} modalities, which have {2 ** len(every) - 1:,} subsets; "
            f"at most {MOST} can be evaluated: {', '.join(every)}."
        )
    return [s for size in range(1, len(every) + 1) for s in combinations(every, size)]


def short(every: Subset) -> dict[str, str]:
    """What modalities are called in pictures: without their kind, where that tells them apart."""
    names = [m.partition("_")[2] or m for m in every]
    return dict(zip(every, names if len(set(names)) == len(names) else every, strict=True))


def given(batch: Mapping[str, Any], subset: Subset) -> dict[str, Any]:
    """The batch without the modalities that are not in `subset`."""
    return {**batch, **{f"{m}/present": present(batch, m) & (m in subset) for m in streams(batch)}}


def check_classes(found: Predictions, output: str) -> None:
    """Raises DataError where the outputs are not logits of all the classes."""
    if found.outputs.ndim != 2 or found.targets.max() >= found.outputs.shape[1]:
        shape = " × ".join(map(str, found.outputs.shape[1:])) or "one number"
        raise DataError(
            f"{output} is {shape} an example, and class {found.targets.max()} occurs: it should be a logit of each class. "
            "Heads of ordered classes (kind='ordinal') have none."
        )


def groups(view: SplitView, field: str, rows: np.ndarray) -> np.ndarray:
    """The group of each of some rows of the split, what the source's example has as `field`; "" where it lacks that.

    Raises:
        ConfigError: no example has it, or it is neither a name nor a whole number.
    """
    source, found, known = view.data.source(view.split), [], set()
    for row in rows:
        example = source[int(row)]
        value = example.get(field)
        known |= set(example)
        value = value.decode() if isinstance(value, bytes) else value
        if not isinstance(value, str | int | np.integer | None):
            raise ConfigError(f"by={field!r}: examples have {type(value).__name__} there; a group should be a name or a whole number.")
        found.append("" if value is None else str(value).replace("/", "|"))  # a figure's name is a path
    if rows.size and not any(found):
        raise ConfigError(f"by={field!r}: examples of the {view.split} split have no such field.{nearest(field, known)}")
    return np.array(found)
