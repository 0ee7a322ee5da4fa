"""What classifiers on frozen features share: the features of labelled examples, and what a result stands beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mmjax.config import ConfigError, DataError
from mmjax.contract import TARGETS, Artifact, State, Table, kind, present
from mmjax.data.split import SplitView
from mmjax.evals._ridge import LARGEST, audio_features, image_features, series_features
from mmjax.ops.classification import chance_summary, majority_summary
from mmjax.ops.masks import masked_mean

SIMPLE = {"image": "hog", "series": "statistics", "audio": "log_mel"}  # what the simple features of each kind are called


class Labelled(NamedTuple):
    """Examples of a split with their features `x` and classes `y`; `rows` are their places in the split."""

    x: Float[np.ndarray, "N D"]
    y: Int[np.ndarray, " N"]
    rows: Int[np.ndarray, " N"]
    view: SplitView

    def taken(self, which: np.ndarray) -> Labelled:
        """Some of them, by index or mask."""
        return self._replace(x=self.x[which], y=self.y[which], rows=self.rows[which])


class Task(NamedTuple):
    """Examples to learn from, to choose by and to be measured on, of `classes` classes."""

    train: Labelled
    held: Labelled
    test: Labelled
    classes: int

    @property
    def known(self) -> tuple[Float[np.ndarray, "N D"], Int[np.ndarray, " N"]]:
        """Features and classes of all but the examples to be measured on."""
        return np.concatenate([self.train.x, self.held.x]), np.concatenate([self.train.y, self.held.y])


def operations(view: SplitView, stream: str, label: str) -> dict[str, str]:
    """The operations of a modality and of a label, which need not stand in the config: there is one way to read a label."""
    if label.split("_", 1)[0] != "label":  # tags and values have evaluators of their own
        raise ConfigError(f"label={label!r} is no label: a name begins with 'label', as in 'label_group'.")
    if stream not in view.data.pp or kind(stream) in TARGETS:
        read = ", ".join(s for s in view.data.pp if kind(s) not in TARGETS)
        raise ConfigError(f"{view.data.path}.pp does not read {stream!r}, which should be classified. It reads: {read}.")
    return {stream: view.data.pp[stream], label: view.data.pp.get(label, "index()")}


def labelled(fns: Any, state: State, view: SplitView, stream: str, label: str, output: str, limit: int | None = None) -> Labelled:
    """The features of all the examples that have the stream and a label, or of `limit` drawn from the split.

    `output` is what the model says of the stream: "pooled", "z", or "tokens", of which the mean over the valid ones is taken.
    """
    pp, names = operations(view, stream, label), (f"{stream}/{output}", *([f"{stream}/valid"] if output == "tokens" else []))
    order = np.arange(len(view.examples(pp)))
    if limit is not None and len(order) > limit:
        order = np.sort(np.random.default_rng(0).choice(len(order), limit, replace=False))
    x, y, here = [], [], []
    for batch in view.batches(pp, rows=order):
        outputs = fns.outputs(state, batch, names)
        found = outputs[names[0]]
        x.append((masked_mean(found, outputs[names[1]]) if output == "tokens" else found).astype(jnp.float32))
        y.append(fns.replicated(batch[label]))
        here.append(fns.replicated(present(batch, stream) & present(batch, label)))
    x, y, here = (np.concatenate(jax.device_get(a)) for a in (x, y, here))
    if not here.any():
        raise DataError(f"No example of the {view.split} split has both {stream!r} and {label!r}.")
    if not np.isfinite(x[here]).all():
        raise DataError(f"The model's {names[0]} is not finite on the {view.split} split.")
    return Labelled(x[here], y[here], order[np.flatnonzero(here)], view)


def simple(examples: Labelled, stream: str, label: str) -> Labelled:
    """The same examples, described by simple features of their images, series or clips."""
    of = examples.view.examples(operations(examples.view, stream, label))
    shown = [of.shown(int(row))[stream] for row in examples.rows]
    if kind(stream) == "series":
        return examples._replace(x=series_features(shown))
    if kind(stream) == "audio":
        return examples._replace(x=audio_features(shown))
    images = [i if i.dtype == np.uint8 else np.clip((i + 1) * 127.5, 0, 255).astype(np.uint8) for i in shown]
    return examples._replace(x=image_features(np.stack(images)))


def beside(seen: Int[np.ndarray, " M"], labels: Int[np.ndarray, " N"], classes: int) -> dict[str, dict[str, float]]:
    """{"chance": what guessing reaches, "majority": what the classes most frequent in `seen` reach}, by metric."""
    return {"chance": chance_summary(classes), "majority": majority_summary(seen, labels, classes)}


@dataclass(kw_only=True)
class Probe:
    """A classifier on the frozen model's features, learned from the training split and measured on another.

    What it chooses is chosen on the split `select`, or on a fifth of the training examples where there is none or where
    that is the split to be measured on; then it learns from all of both. A class without training examples is never
    answered, and its examples count as wrong.

    Args:
        stream, label: what is classified, and the classes.
        output: the features, of the model's outputs for the stream. "pooled" is what the projection to the common space is
            given, which Radford et al. (2021, app. A.3) take; "z" is behind it; "tokens" are averaged.
        train, select: the splits to learn from and to choose by.
        limit: at most so many training examples, drawn once; more take memory and time.
        baseline: "simple", the same classifier on simple features: `hog` of an image (histograms of oriented gradients, and
            colours), `statistics` of a series (of each channel), `log_mel` of a clip (mean and deviation of each band); or
            None. Streams of another kind have none.
    """

    stream: str = "image"
    label: str = "label"
    output: str = "pooled"
    train: str = "train"
    select: str | None = "validation"
    limit: int = LARGEST
    baseline: str | None = "simple"

    def __post_init__(self):
        if self.baseline not in (None, "simple"):
            raise ConfigError(f"baseline={self.baseline!r} is unknown ('simple' or None).")
        if self.limit < 10:
            raise ConfigError(f"limit={self.limit} should be at least 10.")

    @property
    def simple(self) -> str | None:
        """What the simple features that stand beside are called; None where there are none."""
        return SIMPLE.get(kind(self.stream)) if self.baseline else None

    def measure(self, task: Task) -> tuple[dict[str, float], str]:
        """Figures by name, and in words what was chosen."""
        raise NotImplementedError

    def check(self, view: SplitView) -> None:
        """Whether the splits have what is classified and the classes."""
        for split in dict.fromkeys((view.split, self.train, self._select(view) or self.train)):
            view.other(split).examples(operations(view, self.stream, self.label))

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float | Artifact]]:
        """Yields figures, their chance and majority; with `details` also those of simple features, and what was chosen."""
        task = self._task(fns, state, view)
        figures, chosen = self.measure(task)
        levels = beside(task.known[1], task.test.y, task.classes)
        for name, value in figures.items():
            yield name, value
            metric = name.rpartition("/")[2]
            yield from ((f"{name}/{level}", known[metric]) for level, known in levels.items() if metric in known)
        if not details:
            return
        rows = [[f"{self.stream}/{self.output}", task.train.x.shape[1], len(task.known[1]), chosen]]
        if simple_name := self.simple:
            train, held, test = (simple(part, self.stream, self.label) for part in task[:3])
            figures, chosen = self.measure(Task(train, held, test, task.classes))
            yield from ((f"{name}/{simple_name}", value) for name, value in figures.items() if not name.endswith("/std"))
            rows.append([simple_name, train.x.shape[1], len(task.known[1]), chosen])
        yield "features", Table(["features", "dimensions", "training examples", "chosen"], rows)

    def _select(self, view: SplitView) -> str | None:
        return self.select if self.select not in (view.split, self.train) else None

    def _task(self, fns: Any, state: State, view: SplitView) -> Task:
        def read(split: str, limit: int | None = None) -> Labelled:
            return labelled(fns, state, view.other(split), self.stream, self.label, self.output, limit)

        train, test, select = read(self.train, self.limit), read(view.split), self._select(view)
        if select:
            held = read(select, self.limit)
        else:
            fifth = np.random.default_rng(0).permutation(len(train.y)) % 5 == 0
            held, train = train.taken(fifth), train.taken(~fifth)
        names = view.classes(self.label)
        classes = len(names) if names else 1 + int(max(train.y.max(), held.y.max(), test.y.max()))
        if len(np.unique(train.y)) < 2:
            only = names[train.y[0]] if names else train.y[0]
            raise DataError(f"All examples of the {self.train} split are of one class ({only}): there is nothing to tell apart.")
        return Task(train, held, test, classes)


def named(view: SplitView, label: str, names: Sequence[str] | None) -> list[str]:
    """The classes' names, the given ones or the source's.

    Raises:
        ConfigError: there are none, fewer than two, or more or fewer than the source's.
    """
    known = view.classes(label)
    if not names and not known:
        raise ConfigError(f"The source has no names for the classes of {label!r}: give them as names=[...], in the labels' order.")
    if names and known and len(names) != len(known):
        raise ConfigError(f"names= has {len(names)} classes, but {label!r} has {len(known)}: {', '.join(known[:10])}, ...")
    found = list(names or known or ())
    if len(found) < 2:
        raise ConfigError(f"{label!r} has one class only ({found[0]}): there is nothing to tell apart.")
    return found
