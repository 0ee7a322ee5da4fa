"""Baselines that learn no features: ridge regression from simple features of one modality to those of another.

Images are described by histograms of oriented gradients (Dalal & Triggs, 2005) and mean colours over a grid, series by
`pp/series.py`'s statistics of each channel, texts by TF-IDF weights of words and of character n-grams; a linear map fitted
on the training split takes one modality to the other, its regularisation chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from mmjax.data.batch_pp.audio import log_mel
from mmjax.data.pp.audio import Waveform
from mmjax.data.pp.builder import parse
from mmjax.ops.retrieval import ranks, unit

ALPHAS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)
LARGEST = 20_000  # examples that it is fitted on; more fill the memory


def image_features(images: UInt8[np.ndarray, "N H W 3"], size: int = 48) -> Float[np.ndarray, "N D"]:
    """`pp/image.py`'s `hog` over cells of 8 x 8 pixels."""
    features = parse(f"resize({size})|hog(8)", "image")
    return np.stack([features(image, None).ravel() for image in images])


def series_features(series: Sequence[Any]) -> Float[np.ndarray, "N D"]:
    """`pp/series.py`'s `statistics`."""
    features = parse("statistics", "series")
    return np.stack([features(one, None) for one in series])


def audio_features(clips: Sequence[Waveform], seconds: int = 10, bands: int = 40) -> Float[np.ndarray, "N D"]:
    """Mean and standard deviation over time of each band of the log-mel spectrum of a clip's first seconds."""
    rate = clips[0].rate
    length = min(seconds * rate, max(len(clip.samples) for clip in clips))
    spectrum = jax.jit(partial(log_mel(bands, rate=rate), key=None))
    found = []
    for start in range(0, len(clips), 64):
        x, valid = np.zeros((64, length), np.float32), np.zeros((64, length), bool)
        for row, clip in enumerate(clips[start : start + 64]):
            samples = clip.samples[:length]
            x[row, : len(samples)], valid[row, : len(samples)] = samples, True
        here = valid.any(axis=1)
        frames, real = (part[here] for part in jax.device_get(spectrum(x, valid, present=here)))
        found.append(np.concatenate([f(frames, axis=1, where=real[:, :, None]) for f in (np.mean, np.std)], axis=1))
    return np.concatenate(found)


def _best_map(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"], rank: Callable[[Float[np.ndarray, "D E"]], Int[np.ndarray, " M"]]
) -> tuple[float, Float[np.ndarray, "D E"]]:
    """Of the maps from `x` to `y` the one by which most queries of those behind `rank` find what is right among the first ten."""
    gram, cross = x.T @ x, x.T @ y
    maps = [(alpha, np.linalg.solve(gram + alpha * np.eye(len(gram), dtype=x.dtype), cross)) for alpha in ALPHAS]

    def score(weights: np.ndarray) -> float:
        found = rank(weights)
        return float(np.mean(found < 10) - 1e-3 * np.median(found) / len(found))

    return max(maps, key=lambda found: score(found[1]))


class Ridge:
    """Fitted on pairs of the training split; `texts` and `images` then give unit vectors that can be compared."""

    def __init__(
        self,
        train: tuple[np.ndarray, Sequence[str]],
        validation: tuple[np.ndarray, Sequence[str], Int[np.ndarray, " N"]],
    ):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import FeatureUnion
        from sklearn.preprocessing import StandardScaler

        images, texts = train
        self._vectorizer = FeatureUnion(
            [("words", TfidfVectorizer(sublinear_tf=True)), ("letters", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2))]
        )
        y = self._vectorizer.fit_transform(texts).toarray().astype(np.float32)
        features = image_features(images)
        self._scaler = StandardScaler().fit(features)
        x = np.asarray(self._scaler.transform(features))
        self._mean = y.mean(axis=0)
        held, texts, keys = self._scaler.transform(image_features(validation[0])), self.texts(validation[1]), validation[2]
        self.alpha, self._weights = _best_map(x, y - self._mean, lambda weights: ranks(texts, keys, unit(held @ weights), keys)[0])

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        """Unit vectors of texts."""
        return unit(self._vectorizer.transform(texts).toarray().astype(np.float32) - self._mean)

    def images(self, images: UInt8[np.ndarray, "N H W 3"]) -> Float[np.ndarray, "N D"]:
        """Unit vectors predicted for images."""
        return unit(self._scaler.transform(image_features(images)) @ self._weights)


class SeriesRidge:
    """Fitted on pairs (series, other series, keys) of the training split; `first` and `second` then give unit vectors to compare."""

    def __init__(self, train: tuple[Sequence[Any], Sequence[Any]], validation: tuple[Sequence[Any], Sequence[Any], Int[np.ndarray, " N"]]):
        from sklearn.preprocessing import StandardScaler

        x, y = (series_features(series) for series in train)
        self._x, self._y = StandardScaler().fit(x), StandardScaler().fit(y)
        held, other, keys = self._x.transform(series_features(validation[0])), self.second(validation[1]), validation[2]
        self.alpha, self._weights = _best_map(
            np.asarray(self._x.transform(x)),
            np.asarray(self._y.transform(y)),
            lambda weights: ranks(other, keys, unit(held @ weights), keys)[0],
        )

    def first(self, series: Sequence[Any]) -> Float[np.ndarray, "N D"]:
        """Predicted for series of the first kind."""
        return unit(self._x.transform(series_features(series)) @ self._weights)

    def second(self, series: Sequence[Any]) -> Float[np.ndarray, "N D"]:
        """Of series of the second kind."""
        return unit(np.asarray(self._y.transform(series_features(series))))
