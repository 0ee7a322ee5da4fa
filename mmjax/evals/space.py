"""The shared space itself: how far apart the modalities lie in it, and a map of it to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from mmjax.config import ConfigError, DataError
from mmjax.contract import KINDS, TARGETS, Artifact, Scatter, State, kind, present
from mmjax.data.split import SplitView

METHODS = ("tsne", "pca")


def modality_gap(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"]) -> tuple[float, float]:
    """The gap between two modalities' unit embeddings of the same N examples, and what chance gives.

    The gap is |mean(a) - mean(b)| (Liang et al., 2022, 'Mind the Gap', sec. 4.1), from 0 to 2. Chance is the root mean
    square of it over all ways to deal the 2 N embeddings to the two sides: sqrt(2 / N) times their standard deviation.
    """
    both = np.concatenate([a, b])
    deviation = np.sqrt(np.sum((both - both.mean(axis=0)) ** 2) / max(len(both) - 1, 1))
    return float(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0))), float(np.sqrt(2 / len(a)) * deviation)


class Space:
    """For each pair of modalities their gap, over the examples that have both; with details a map of all modalities.

    A small gap is no merit by itself: a model that puts everything in one place has none.

    Args:
        streams: the modalities; None takes all that the run reads.
        by: the label whose classes the map is coloured by, besides the modalities, or None.
        method: of the map, "tsne" (van der Maaten & Hinton, 2008; neighbours stay neighbours, distances mean little) or "pca"
            (the two directions of largest variance, true to scale).
        points: at most so many in the map, drawn from the split once.
    """

    def __init__(self, streams: Sequence[str] | None = None, by: str | None = "label", method: str = "tsne", points: int = 1_000):
        if streams is not None and len(set(streams)) < 2:
            raise ConfigError(f"space: streams={tuple(streams)} should be two or more modalities, or None for all.")
        if method not in METHODS:
            raise ConfigError(f"space: method={method!r} is unknown ({' or '.join(map(repr, METHODS))}).")
        if points < 10:
            raise ConfigError(f"space: points={points} should be at least 10.")
        self.streams, self.by, self.method, self.points = streams, by, method, points

    def check(self, view: SplitView) -> None:
        """Whether the split has the modalities and the label."""
        view.examples(self._pp(view))

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float | Artifact]]:
        """Yields `gap/<one>_and_<other>` and its chance; with `details` the map as well."""
        z, here, classes = self._embed(fns, state, view)
        for a, b in combinations(z, 2):
            if (both := here[a] & here[b]).any():
                gap, chance = modality_gap(z[a][both], z[b][both])
                yield from ((f"gap/{a}_and_{b}", gap), (f"gap/{a}_and_{b}/chance", chance))
        if details:
            yield "map", self._map(view, z, here, classes)

    def _pp(self, view: SplitView) -> dict[str, str]:
        known = [stream for stream in view.data.pp if kind(stream) in KINDS]
        for stream in self.streams or ():
            if stream not in known:
                raise ConfigError(f"space: {view.data.path}.pp does not read {stream!r}. It reads: {', '.join(known)}.")
        if len(known) < 2:
            raise ConfigError(f"space: {view.data.path}.pp reads {', '.join(known)} only: there is no gap between one modality.")
        if self.by and self.by.split("_", 1)[0] not in TARGETS:
            raise ConfigError(f"space: by={self.by!r} is no label: a name begins with 'label', as in 'label_group'.")
        label = {self.by: view.data.pp.get(self.by, "index()")} if self.by else {}
        return {**{stream: view.data.pp[stream] for stream in self.streams or known}, **label}

    def _embed(
        self, fns: Any, state: State, view: SplitView
    ) -> tuple[dict[str, Float[np.ndarray, "N D"]], dict[str, Bool[np.ndarray, " N"]], Int[np.ndarray, " N"]]:
        """Of every modality the embedding of each row and whether it has one, and the rows' classes, -1 where there is none."""
        pp = self._pp(view)
        streams = [stream for stream in pp if stream != self.by]
        found = []
        for batch in view.batches(pp):
            z = fns.outputs(state, batch, tuple(f"{stream}/z" for stream in streams))
            here = [fns.replicated(present(batch, stream)) for stream in streams]
            label = jnp.where(present(batch, self.by), batch[self.by], -1) if self.by else jnp.full_like(batch[f"{streams[0]}/key"], -1)
            found.append(([z[f"{stream}/z"].astype(jnp.float32) for stream in streams], here, fns.replicated(label)))
        z, here, classes = zip(*jax.device_get(found), strict=True)
        joined = lambda parts: dict(zip(streams, map(np.concatenate, zip(*parts, strict=True)), strict=True))  # noqa: E731
        return joined(z), joined(here), np.concatenate(classes)

    def _map(self, view: SplitView, z: Mapping[str, np.ndarray], here: Mapping[str, np.ndarray], classes: np.ndarray) -> Scatter:
        """At most `points` embeddings in the plane, drawn from all that there are."""
        streams = np.repeat(list(z), [len(x) for x in z.values()])
        rows = np.flatnonzero(np.concatenate(list(here.values())))
        total = len(rows)
        if total > self.points:
            rows = np.sort(np.random.default_rng(0).choice(rows, self.points, replace=False))
        x, y, axes = _plane(np.concatenate(list(z.values()))[rows], self.method)
        groups: dict[str, list[str | None]] = {"modality": streams[rows].tolist()}
        if self.by:
            known = view.classes(self.by)
            drawn = np.tile(classes, len(z))[rows]
            groups[self.by] = [None if c < 0 else str(known[c] if known else c) for c in drawn.tolist()]
        note = f"{len(rows):,} of {total:,} embeddings. {axes}"
        return Scatter(x.tolist(), y.tolist(), groups, note)


def _plane(z: Float[np.ndarray, "N D"], method: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Points in the plane, and what can be read from it."""
    if len(z) < 3 or not np.isfinite(z).all():
        raise DataError("space: there are fewer than three embeddings, or they are not finite: no map can be drawn of them.")
    if method == "pca":
        from sklearn.decomposition import PCA

        fitted = PCA(2, svd_solver="full").fit(z)
        share = ", ".join(f"{part:.0%}" for part in np.nan_to_num(fitted.explained_variance_ratio_))
        xy, said = fitted.transform(z), f"The two directions of largest variance (PCA: {share} of it)."
    else:
        from sklearn.manifold import TSNE

        xy = TSNE(2, perplexity=min(30.0, (len(z) - 1) / 3), init="pca", metric="cosine", random_state=0).fit_transform(z)
        said = "Neighbours in the shared space are neighbours here; distances across the map mean little (t-SNE)."
    return xy[:, 0].astype(float), xy[:, 1].astype(float), said
