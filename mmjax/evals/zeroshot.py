"""Zero-shot classification: the class whose prompts' embedding is nearest (Radford et al., 2021, 'CLIP', sec. 3.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from mmjax.config import ConfigError, nearest
from mmjax.contract import Artifact, Matrix, State, Table, kind, present
from mmjax.data.pp.builder import parse
from mmjax.data.split import SplitView
from mmjax.evals._features import beside, labelled, named, operations
from mmjax.ops.classification import ranks, summary
from mmjax.ops.retrieval import unit

TEMPLATES = {
    "image": ("{}", "a photo of a {}.", "a picture of a {}.", "a drawing of a {}.", "an image of a {}."),
    "video": ("{}", "a video of {}.", "a clip of {}.", "footage of {}."),
    "audio": ("{}", "the sound of {}.", "a recording of {}.", "one can hear {}."),
}
PUBLISHED = Path(__file__).with_name("zeroshot_imagenet.json")  # with CLIP; the file says from where, and under which licence


def published(what: str, name: str) -> list[str]:
    """`what` is "templates": CLIP's 80 prompts for ImageNet ("imagenet") or the 7 that do best together ("imagenet_7"); or "names":
    its names of ImageNet's 1,000 classes ("imagenet").

    Raises:
        ConfigError: there are none of that name.
    """
    known = json.loads(PUBLISHED.read_text(encoding="utf-8"))[what]
    if name not in known:
        raise ConfigError(f"{what}={name!r} are none of those published.{nearest(name, known)} Or give them as a list.")
    return known[name]


def readable(names: Sequence[str]) -> list[str]:
    """Class names as data sets write them, in words: "air_plane" and, while all stay different, the first of "tench, Tinca tinca".

    The WordNet ids of ImageNet's 1,000 classes become CLIP's names, which are in the order of these ids.

    Raises:
        ConfigError: they are other WordNet ids, which say nothing to a text encoder.
    """
    if all(re.fullmatch(r"n\d{8}", name) for name in names):
        if len(names) == 1_000:
            clip = dict(zip(sorted(names), published("names", "imagenet"), strict=True))
            return [clip[name] for name in names]
        raise ConfigError(f"The classes are called by WordNet's ids ({names[0]}, ...): give their names as names=[...], in the same order.")
    words = [" ".join(name.replace("_", " ").split()) for name in names]
    first = [name.split(",")[0].strip() for name in words]
    return first if len(set(first)) == len(set(names)) and all(first) else words


class Zeroshot:
    """Nothing is learned: classes are texts, each the mean over all templates of its prompts' unit embeddings.

    Prompts go through the run's own operations for the text stream as if they were the source's texts; where `prompt` is
    one of these, the templates are theirs and the default here is the bare name. `majority` always answers the most
    frequent classes of the very split that is measured.

    Args:
        stream, label, text: what is classified, the classes, and the stream whose tower reads the prompts.
        templates: prompts with {} in the place of the class, or "imagenet" or "imagenet_7": see `published`; None takes a few
            that suit the stream.
        names: the classes' names in the labels' order, or "imagenet", CLIP's for the 1,000; None takes the source's, in words:
            see `readable`.
        worst: how many of the classes with the lowest accuracy are shown with what they are taken for.
    """

    def __init__(
        self,
        stream: str = "image",
        label: str = "label",
        text: str = "text",
        templates: Sequence[str] | str | None = None,
        names: Sequence[str] | str | None = None,
        worst: int = 12,
    ):
        if isinstance(templates, str):
            templates = published("templates", templates)
        if isinstance(names, str):
            names = published("names", names)
        if templates is not None and (not templates or any("{}" not in t for t in templates)):
            raise ConfigError(f"zeroshot: templates={list(templates)} should be prompts, each with {{}} in the place of the class.")
        self.stream, self.label, self.text, self.worst = stream, label, text, worst
        self.templates, self.names = templates, names

    def check(self, view: SplitView) -> None:
        """Whether the split has what is classified and the classes, and these have names."""
        self._names(view)
        self._prompts(view, [])
        view.examples(operations(view, self.stream, self.label))

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float | Artifact]]:
        """Yields figures, their chance and majority; with `details` a table of the classes and the confusion of the worst."""
        names = self._names(view)
        found = labelled(fns, state, view, self.stream, self.label, "z")
        if found.y.max() >= len(names):
            raise ConfigError(f"{self.label!r} {found.y.max()} of the {view.split} split is beyond the {len(names)} names.")
        weights, cut = self._weights(fns, state, view, names)
        scores = found.x @ weights.T
        rank = ranks(scores, found.y)
        levels = beside(found.y, found.y, len(names))
        for name, value in summary(rank, found.y, len(names)).items():
            yield name, value
            yield from ((f"{name}/{level}", known[name]) for level, known in levels.items())
        if details:
            yield from self._by_class(rank, scores.argmax(axis=1), found.y, names, cut)

    def _names(self, view: SplitView) -> list[str]:
        names = named(view, self.label, self.names)
        return names if self.names else readable(names)

    def _prompts(self, view: SplitView, names: Sequence[str]) -> list[str]:
        """All templates of the first name, then of the second, and so on."""
        if self.text not in view.data.pp:
            raise ConfigError(f"{view.data.path}.pp does not read {self.text!r}, which should read the prompts.")
        prompted = "prompt" in parse(view.data.pp[self.text], self.text, {"tokenizer": None}).names
        templates = self.templates or (("{}",) if prompted else TEMPLATES.get(kind(self.stream), ("{}",)))
        return [template.replace("{}", name) for name in names for template in templates]

    def _weights(self, fns: Any, state: State, view: SplitView, names: Sequence[str]) -> tuple[Float[np.ndarray, "C D"], int]:
        """A unit vector for each class, and how many prompts fill all their tokens."""
        prompts, output = self._prompts(view, names), f"{self.text}/z"
        z, here, full = [], [], []
        for batch in view.given(self.text, prompts):
            z.append(fns.outputs(state, batch, (output,))[output])
            here.append(fns.replicated(present(batch, self.text)))
            full.append(fns.replicated(batch[f"{self.text}/valid"].all(axis=1)))  # which `tokens` always gives
        z, here, full = (np.concatenate(jax.device_get(a))[: len(prompts)] for a in (z, here, full))
        if not here.all():
            raise ConfigError(f"The prompt {prompts[int(np.argmin(here))]!r} is nothing after the operations of {self.text!r}.")
        mean = z.reshape(len(names), -1, z.shape[1]).mean(axis=1)
        return unit(mean), int(full.sum())

    def _by_class(
        self, rank: Int[np.ndarray, " N"], taken: Int[np.ndarray, " N"], y: Int[np.ndarray, " N"], names: Sequence[str], cut: int
    ) -> Iterator[tuple[str, Artifact]]:
        """Every class that has examples, the worst first, and the shares in which the worst are taken for each other."""
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (y, taken), 1)
        number = counts.sum(axis=1)
        top1 = np.bincount(y, rank == 0, len(names)) / np.maximum(number, 1)
        order = [int(c) for c in np.lexsort((-number, top1)) if number[c]]
        rows = []
        for c in order:
            wrong = np.where(np.arange(len(names)) == c, 0, counts[c])
            rows.append([names[c], int(number[c]), float(top1[c]), names[int(wrong.argmax())] if wrong.any() else ""])
        note = f"{len(names) - len(order)} classes have no example in the split." if len(order) < len(names) else ""
        note += f" {cut} prompts fill all their tokens, and may have been cut." if cut else ""
        yield "classes", Table(["class", "examples", "top1", "else most often taken for"], rows, note.strip())
        worst = order[: self.worst]
        columns = list(dict.fromkeys([*worst, *(int(c) for row in worst for c in np.argsort(-counts[row])[:2] if counts[row, c])]))
        shares = (counts[np.ix_(worst, columns)] / number[worst, None]).tolist()
        label = "share of a class's examples (rows) taken for a class (columns), for the worst classes"
        yield "confusion_of_the_worst", Matrix(shares, [names[c] for c in worst], [names[c] for c in columns], label)
