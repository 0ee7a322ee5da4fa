"""Cross-modal retrieval in both directions: recall at k and median rank, by language, beside chance and a ridge baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mmjax.config import ConfigError
from mmjax.contract import Artifact, Bars, Gallery, Matrix, State, kind, present
from mmjax.data.loader import SplitView
from mmjax.data.show import as_item
from mmjax.evals._ridge import LARGEST, Ridge
from mmjax.ops.retrieval import chance_summary, ranks, summary


class Side(NamedTuple):
    """One modality of a split: embeddings, keys, and the row of each among the split's examples."""

    z: np.ndarray
    keys: np.ndarray
    rows: np.ndarray


class Retrieval:
    """Every example's text is a query for all the split's images, and the other way round.

    Args:
        streams: the two modalities; the second is asked for by the first in `<second>_to_<first>`.
        k: the depths of recall.
        texts: {name: operations} for the text stream, such as one per language, measured besides the run's own
            operations (which the headline figures are for) and put under `<name>/<direction>/r@k`.
        all_texts: every text of an example is a query (five captions an image), not only the first.
        baseline: "ridge", or None.
        gallery: how many queries are shown with what they retrieve.
    """

    def __init__(
        self,
        streams: Sequence[str] = ("image", "text"),
        k: Sequence[int] = (1, 5, 10),
        texts: Mapping[str, str] | None = None,
        all_texts: bool = False,
        baseline: str | None = "ridge",
        gallery: int = 12,
    ):
        if len(streams) != 2 or not k:
            raise ConfigError(f"retrieval: streams={tuple(streams)} should be two, and k={tuple(k)} not empty.")
        if baseline not in (None, "ridge"):
            raise ConfigError(f"retrieval: baseline={baseline!r} is unknown ('ridge' or None).")
        self.streams, self.ks, self.all_texts, self.baseline, self.gallery = tuple(streams), tuple(k), all_texts, baseline, gallery
        self.texts = dict(texts or {})
        self._ridge: Ridge | None = None

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float | Artifact]]:
        """Yields figures; with `details` the baselines, the other languages and the pictures as well."""
        first, second = self.streams
        a = self._embed(fns, state, view, first, None)
        b = self._embed(fns, state, view, second, None)
        for direction, queries, candidates in self._directions(a, b):
            rank, right = self._ranked(queries, candidates)
            yield from ((f"{direction}/{name}", value) for name, value in summary(rank, self.ks).items())
            chance = chance_summary(right, len(candidates.z), self.ks)
            yield from ((f"{direction}/{name}/chance", value) for name, value in chance.items())
        if details:
            sides = {name: self._embed(fns, state, view, second, pp) for name, pp in self.texts.items()}
            yield from self._by_variant(a, sides)
            yield from self._details(view, a, b)

    def _details(self, view: SplitView, a: Side, b: Side) -> Iterator[tuple[str, Any]]:
        """The baseline, and what a person can look at."""
        shown_a, shown_b = (self._shown(view, stream) for stream in self.streams)
        if self.baseline and {kind(s) for s in self.streams} == {"image", "text"}:
            yield from self._against_ridge(view, a, b, shown_a, shown_b)
        for direction, queries, candidates in self._directions(a, b):
            swapped = direction.startswith(f"{self.streams[0]}_")
            yield f"gallery_{direction}", self._gallery(queries, candidates, *((shown_a, shown_b) if swapped else (shown_b, shown_a)))
        yield "similarity", self._similarity(a, b, shown_b)

    def _directions(self, a: Side, b: Side) -> Iterator[tuple[str, Side, Side]]:
        first, second = self.streams
        yield f"{second}_to_{first}", b, a
        yield f"{first}_to_{second}", a, b

    def _pp(self, view: SplitView, stream: str, text: str | None) -> dict[str, str]:
        if stream not in view.data.pp:
            raise ConfigError(f"evals: retrieval is over {stream!r}, which data.pp does not read ({', '.join(view.data.pp)}).")
        return {stream: text or view.data.pp[stream]}

    def _embed(self, fns: Any, state: State, view: SplitView, stream: str, text: str | None) -> Side:
        """Embeddings of all the rows that have the stream."""
        pp, all_texts = self._pp(view, stream, text), self.all_texts and kind(stream) == "text"
        z, keys, here = [], [], []
        for batch in view.batches(pp, all_texts=all_texts):
            outputs = fns.outputs(state, batch, (f"{stream}/z",))
            z.append(outputs[f"{stream}/z"])
            keys.append(fns.replicated(batch[f"{stream}/key"]))
            here.append(fns.replicated(present(batch, stream)))
        z, keys, here = (np.concatenate(jax.device_get(x)) for x in (z, keys, here))
        return Side(z[here], keys[here], np.flatnonzero(here))

    def _ranked(self, queries: Side, candidates: Side) -> tuple[np.ndarray, np.ndarray]:
        return ranks(queries.z, queries.keys, candidates.z, candidates.keys)

    def _by_variant(self, a: Side, sides: Mapping[str, Side]) -> Iterator[tuple[str, Any]]:
        """The figures of every set of texts, and a picture of them."""
        k, direction = max(self.ks), f"{self.streams[1]}_to_{self.streams[0]}"
        shown: dict[str, list[float]] = {f"r@{k}": [], "chance": []}
        for name, side in sides.items():
            rank, right = self._ranked(side, a)
            chance = chance_summary(right, len(a.z), self.ks)
            found = summary(rank, self.ks)
            shown[f"r@{k}"].append(found[f"r@{k}"])
            shown["chance"].append(chance[f"r@{k}"])
            yield from ((f"{name}/{direction}/{key}", value) for key, value in found.items())
            yield from ((f"{name}/{direction}/{key}/chance", value) for key, value in chance.items())
        if sides:
            yield f"by_language_{direction}", Bars(list(sides), shown, ylabel=f"r@{k}, {direction.replace('_', ' ')}")

    def _shown(self, view: SplitView, stream: str) -> list[Any]:
        """Each row as a person sees it; rows are those of `_embed`."""
        examples = view.examples(self._pp(view, stream, None), all_texts=self.all_texts and kind(stream) == "text")
        return [examples.shown(row)[stream] for row in range(len(examples))]

    def _against_ridge(self, view: SplitView, a: Side, b: Side, shown_a: list, shown_b: list) -> Iterator[tuple[str, float]]:
        images, texts = (a, b) if kind(self.streams[0]) == "image" else (b, a)
        shown_images, shown_texts = (shown_a, shown_b) if images is a else (shown_b, shown_a)
        if self._ridge is None:
            self._ridge = self._fit_ridge(view)
        z = {
            id(images): self._ridge.images(np.stack([shown_images[row] for row in images.rows])),
            id(texts): self._ridge.texts([shown_texts[row] for row in texts.rows]),
        }
        for direction, queries, candidates in self._directions(a, b):
            rank, _ = self._ranked(queries._replace(z=z[id(queries)]), candidates._replace(z=z[id(candidates)]))
            yield from ((f"{direction}/{name}/ridge", value) for name, value in summary(rank, self.ks).items())

    def _fit_ridge(self, view: SplitView) -> Ridge:
        pp = {stream: self._pp(view, stream, None)[stream] for stream in self.streams}
        image, words = sorted(self.streams, key=kind)
        pairs = {}
        for split in ("train", "validation"):
            examples = view.other(split).examples(pp)
            rows = [
                example
                for i in range(min(len(examples), LARGEST))
                if (example := examples.shown(i))[image] is not None and example[words] is not None
            ]
            pairs[split] = (np.stack([r[image] for r in rows]), [r[words] for r in rows], np.array([r["key"] for r in rows]))
        return Ridge(pairs["train"][:2], pairs["validation"])

    def _gallery(self, queries: Side, candidates: Side, shown_queries: list, shown_candidates: list) -> Gallery:
        picked = np.unique(np.linspace(0, len(queries.z) - 1, min(self.gallery, len(queries.z))).round().astype(int))
        items, results = [], []
        for i in picked:
            similarity = candidates.z @ queries.z[i]
            items.append(as_item(shown_queries[queries.rows[i]]))
            results.append(
                [
                    as_item(
                        shown_candidates[candidates.rows[j]],
                        correct=bool(candidates.keys[j] == queries.keys[i]),
                        score=float(similarity[j]),
                    )
                    for j in np.argsort(-similarity)[: max(self.ks)]
                ]
            )
        return Gallery(items, results)

    def _similarity(self, a: Side, b: Side, shown_b: list, most: int = 40) -> Matrix:
        """Similarities of the first items that have both sides, each text's own image on the diagonal."""
        _, first_a, first_b = np.intersect1d(a.keys, b.keys, return_indices=True)
        first_a, first_b = first_a[:most], first_b[:most]
        labels = [str(shown_b[b.rows[i]]) if isinstance(shown_b[b.rows[i]], str) else str(i) for i in first_b]
        values = (b.z[first_b] @ a.z[first_a].T).astype(float).tolist()
        return Matrix(values, labels, labels, f"cosine similarity, {self.streams[1]} (rows) and {self.streams[0]} (columns)")
