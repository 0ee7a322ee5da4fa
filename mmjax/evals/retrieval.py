"""Cross-modal retrieval in both directions: recall at k and median rank, by language and by class, beside chance and a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32

from mmjax.config import ConfigError, DataError, nearest
from mmjax.contract import TARGETS, Artifact, Bars, Gallery, Matrix, State, Table, kind, present
from mmjax.data.examples import Examples
from mmjax.data.show import as_item
from mmjax.data.split import SplitView
from mmjax.evals._ridge import LARGEST, Ridge, SeriesRidge
from mmjax.ops.retrieval import chance_summary, ranks, summary


class Side(NamedTuple):
    """One modality of a split: of every row that has it the embedding, the key, its place in `examples`, and its class or -1."""

    stream: str
    z: np.ndarray
    keys: np.ndarray
    rows: np.ndarray
    classes: np.ndarray
    examples: Examples

    def shown(self, i: int | np.integer) -> Any:
        """The i-th row as a person sees it."""
        return self.examples.shown(int(self.rows[i]))[self.stream]

    def asking(self, candidates: Side) -> Side:
        """The rows that have something to find.

        Raises:
            DataError: there is none.
        """
        some = np.isin(self.keys, candidates.keys)
        if not some.any():
            raise DataError(f"retrieval: no example of the {self.examples.split} split has both {self.stream!r} and {candidates.stream!r}.")
        return self._replace(z=self.z[some], keys=self.keys[some], rows=self.rows[some], classes=self.classes[some])


class Retrieval:
    """What an example has in one modality is a query for what all examples of the split have in the other, and the other way round.

    Examples that lack a modality are neither queries nor candidates of it, and what has nothing to find is no query, though
    a candidate. Right are all candidates with the query's key. Rows that repeat an item's very content, as a picture does in
    a table of captions, count once; but texts count as often as they stand there, as in published protocols.

    Args:
        streams: the two modalities, of any kinds.
        k: the depths of recall.
        variants: {name: {stream: operations}}, such as one per language, measured besides the run's own operations (which
            the headline figures are for) with that stream as the query, and put under `<name>/<direction>/r@k`.
        all_items: every item of an example (five captions of an image, the recordings of a word) in every language that
            its operations choose from is a row, not only the one that evaluation takes.
        by: a label, such as "label", by whose classes the queries are broken down, too.
        baseline: "ridge" (of an image and a text, or of two series), or None.
        gallery: how many queries are shown with what they retrieve.
    """

    def __init__(
        self,
        streams: Sequence[str] = ("image", "text"),
        k: Sequence[int] = (1, 5, 10),
        variants: Mapping[str, Mapping[str, str]] | None = None,
        all_items: bool = False,
        by: str | None = None,
        baseline: str | None = "ridge",
        gallery: int = 12,
    ):
        if len(set(streams)) != 2 or not k:
            raise ConfigError(f"retrieval: streams={tuple(streams)} should be two, and k={tuple(k)} not empty.")
        if baseline not in (None, "ridge"):
            raise ConfigError(f"retrieval: baseline={baseline!r} is unknown ('ridge' or None).")
        if by is not None and by.split("_", 1)[0] not in TARGETS:
            raise ConfigError(f"retrieval: by={by!r} is no label: a name begins with 'label', as in 'label_group'.")
        self.streams, self.ks, self.all_items, self.by = tuple(streams), tuple(k), all_items, by
        self.variants = {name: dict(pp) for name, pp in (variants or {}).items()}
        for name, pp in self.variants.items():
            if not pp:
                raise ConfigError(f"retrieval: variants.{name} has no operations: it is {{stream: operations}}.")
            for stream in pp:
                if stream not in self.streams:
                    hint = nearest(stream, self.streams)
                    raise ConfigError(f"retrieval: variants.{name} is of {stream!r}, which is none of {self.streams}.{hint}")
        self.baseline, self.gallery = baseline, gallery
        self._ridge: Ridge | SeriesRidge | None = None

    def check(self, view: SplitView) -> None:
        """Whether the split has both modalities, in every variant, and the label."""
        for pp in ({}, *self.variants.values()):
            for stream in pp or self.streams:
                view.examples(self._pp(view, stream, pp.get(stream)))

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float | Artifact]]:
        """Yields figures; with `details` the baselines, the variants, the classes and the pictures as well."""
        a, b = (self._embed(fns, state, view, stream) for stream in self.streams)
        yield from self._figures(a, b)
        yield from self._figures(b, a)
        if details:
            yield from self._by_variant(fns, state, view, a, b)
            yield from self._details(view, a, b)

    def _figures(self, queries: Side, candidates: Side, prefix: str = "") -> Iterator[tuple[str, float]]:
        """Recall and median rank of one direction, each beside chance."""
        queries = queries.asking(candidates)
        rank, right = ranks(queries.z, queries.keys, candidates.z, candidates.keys)
        name, chance = prefix + _direction(queries, candidates), chance_summary(right, len(candidates.z), self.ks)
        for metric, value in summary(rank, self.ks).items():
            yield f"{name}/{metric}", value
            yield f"{name}/{metric}/chance", chance[metric]

    def _by_variant(self, fns: Any, state: State, view: SplitView, a: Side, b: Side) -> Iterator[tuple[str, Any]]:
        """The figures of every variant, and a picture of them."""
        metric, bars = f"r@{max(self.ks)}", {}
        for name, pp in self.variants.items():
            changed = {stream: self._embed(fns, state, view, stream, text) for stream, text in pp.items()}
            first, second = (changed.get(side.stream, side) for side in (a, b))
            for queries, candidates in ((first, second), (second, first)):
                if queries.stream not in changed:
                    continue
                found = dict(self._figures(queries, candidates, f"{name}/"))
                yield from found.items()
                direction = _direction(queries, candidates)
                labels, values, chance = bars.setdefault(direction, ([], [], []))
                labels.append(name)
                values.append(found[f"{name}/{direction}/{metric}"])
                chance.append(found[f"{name}/{direction}/{metric}/chance"])
        for direction, (labels, values, chance) in bars.items():
            shown = Bars(labels, {metric: values, "chance": chance}, ylabel=f"{metric}, {direction.replace('_', ' ')}")
            yield f"by_variant_{direction}", shown

    def _details(self, view: SplitView, a: Side, b: Side) -> Iterator[tuple[str, Any]]:
        """The baseline, and what a person can look at."""
        if self.baseline and {kind(s) for s in self.streams} in ({"image", "text"}, {"series"}):
            yield from self._against_ridge(view, a, b)
        for queries, candidates in ((b, a), (a, b)):
            direction = _direction(queries, candidates)
            yield f"gallery_{direction}", self._gallery(queries.asking(candidates), candidates)
            if self.by:
                yield f"by_{self.by}_{direction}", self._by_class(view, queries, candidates)
        yield "compared", self._compared(a, b)
        yield "similarity", self._similarity(a, b)

    def _pp(self, view: SplitView, stream: str, text: str | None = None) -> dict[str, str]:
        if stream not in view.data.pp:
            raise ConfigError(f"evals: retrieval is over {stream!r}, which data.pp does not read ({', '.join(view.data.pp)}).")
        label = {self.by: view.data.pp.get(self.by, "index()")} if self.by else {}
        return {stream: text or view.data.pp[stream], **label}

    def _embed(self, fns: Any, state: State, view: SplitView, stream: str, text: str | None = None) -> Side:
        """All the rows that have the stream."""
        pp, items = self._pp(view, stream, text), stream if self.all_items else None
        found = []
        for batch in view.batches(pp, items=items):
            z, key, here = fns.outputs(state, batch, (f"{stream}/z",))[f"{stream}/z"], batch[f"{stream}/key"], present(batch, stream)
            label = jnp.where(present(batch, self.by), batch[self.by], -1) if self.by else jnp.full_like(key, -1)
            found.append((z, *map(fns.replicated, (key, here, label, _content(batch[stream])))))
        z, keys, here, classes, content = (np.concatenate(part) for part in zip(*jax.device_get(found), strict=True))
        rows = np.flatnonzero(here)
        if kind(stream) != "text":
            _, first = np.unique(np.stack([keys[rows], content[rows].view(np.int32)]), axis=1, return_index=True)
            rows = rows[np.sort(first)]
        return Side(stream, z[rows], keys[rows], rows, classes[rows], view.examples(pp, items=items))

    def _by_class(self, view: SplitView, queries: Side, candidates: Side) -> Bars:
        """Recall of the queries of each class, the best first, among all candidates."""
        queries = queries.asking(candidates)
        rank, right = ranks(queries.z, queries.keys, candidates.z, candidates.keys)
        k, known = max(self.ks), view.classes(self.by or "")
        rows = []
        for c in np.unique(queries.classes[queries.classes >= 0]):
            mine = queries.classes == c
            chance = chance_summary(right[mine], len(candidates.z), (k,))[f"r@{k}"]
            rows.append((summary(rank[mine], (k,))[f"r@{k}"], chance, f"{known[c] if known else c} ({mine.sum()})"))
        rows.sort(key=lambda row: -row[0])
        series = {f"r@{k}": [row[0] for row in rows], "chance": [row[1] for row in rows]}
        said = f"r@{k}, {_direction(queries, candidates).replace('_', ' ')}, by class of the query (how many there are)"
        return Bars([row[2] for row in rows], series, ylabel=said)

    def _compared(self, a: Side, b: Side) -> Table:
        """How many queries and candidates there are, and what the operations leave of them."""
        rows = []
        for side, other in ((a, b), (b, a)):
            operations = "|".join(side.examples.pipelines[side.stream].names)
            rows.append([side.stream, len(side.asking(other).z), len(side.z), len(np.unique(side.keys)), operations])
        taken = "every item, in every language that they choose from" if self.all_items else "the first item of the first language there is"
        return Table(
            ["modality", "queries", "candidates", "different items", "operations"], rows, f"Of an example the operations are given {taken}."
        )

    def _against_ridge(self, view: SplitView, a: Side, b: Side) -> Iterator[tuple[str, float]]:
        if self._ridge is None:
            self._ridge = self._fit_ridge(view)
        of_a, of_b = ([side.shown(i) for i in range(len(side.z))] for side in (a, b))
        if isinstance(self._ridge, SeriesRidge):
            z_a, z_b = self._ridge.first(of_a), self._ridge.second(of_b)
        elif kind(a.stream) == "image":
            z_a, z_b = self._ridge.images(np.stack(of_a)), self._ridge.texts(of_b)
        else:
            z_a, z_b = self._ridge.texts(of_a), self._ridge.images(np.stack(of_b))
        a, b = a._replace(z=z_a), b._replace(z=z_b)
        for queries, candidates in ((b.asking(a), a), (a.asking(b), b)):
            rank, _ = ranks(queries.z, queries.keys, candidates.z, candidates.keys)
            yield from ((f"{_direction(queries, candidates)}/{name}/ridge", value) for name, value in summary(rank, self.ks).items())

    def _fit_ridge(self, view: SplitView) -> Ridge | SeriesRidge:
        pp = {stream: view.data.pp[stream] for stream in self.streams}
        one, other = self.streams if kind(self.streams[0]) == kind(self.streams[1]) else sorted(self.streams, key=kind)
        pairs = {}
        for split in ("train", "validation"):
            examples = view.other(split).examples(pp)
            rows = [
                example
                for i in range(min(len(examples), LARGEST))
                if (example := examples.shown(i))[one] is not None and example[other] is not None
            ]
            pairs[split] = ([r[one] for r in rows], [r[other] for r in rows], np.array([r["key"] for r in rows]))
        if kind(one) == "series":
            return SeriesRidge(pairs["train"][:2], pairs["validation"])
        (images, texts, _), (held, held_texts, keys) = pairs["train"], pairs["validation"]
        return Ridge((np.stack(images), texts), (np.stack(held), held_texts, keys))

    def _gallery(self, queries: Side, candidates: Side) -> Gallery:
        picked = np.unique(np.linspace(0, len(queries.z) - 1, min(self.gallery, len(queries.z))).round().astype(int))
        items, results = [], []
        for i in picked:
            similarity = candidates.z @ queries.z[i]
            items.append(as_item(queries.shown(i)))
            results.append(
                [
                    as_item(candidates.shown(j), correct=bool(candidates.keys[j] == queries.keys[i]), score=float(similarity[j]))
                    for j in np.argsort(-similarity)[: max(self.ks)]
                ]
            )
        return Gallery(items, results)

    def _similarity(self, a: Side, b: Side, most: int = 40) -> Matrix:
        """Similarities of the first items that have both sides, each item's own on the diagonal."""
        _, first_a, first_b = np.intersect1d(a.keys, b.keys, return_indices=True)
        first_a, first_b = first_a[:most], first_b[:most]
        worded = next(((side, first) for side, first in ((b, first_b), (a, first_a)) if kind(side.stream) == "text"), None)
        labels = [str(worded[0].shown(i)) for i in worded[1]] if worded else [str(key) for key in b.keys[first_b]]
        values = (b.z[first_b] @ a.z[first_a].T).astype(float).tolist()
        return Matrix(values, labels, labels, f"cosine similarity, {b.stream} (rows) and {a.stream} (columns)")


def _direction(queries: Side, candidates: Side) -> str:
    return f"{queries.stream}_to_{candidates.stream}"


@jax.jit
def _content(x: Shaped[Array, "B ..."]) -> UInt32[Array, " B"]:
    """A number for what stands in each row: equal for equal rows, and hardly ever for others. Exact, on any mesh."""
    words = jax.lax.bitcast_convert_type(x.reshape(x.shape[0], -1).astype(jnp.float32), jnp.uint32)
    factors = jax.random.bits(jax.random.key(0), (words.shape[1],), jnp.uint32) | jnp.uint32(1)
    return jnp.sum(words * factors[None, :], axis=1, dtype=jnp.uint32)
