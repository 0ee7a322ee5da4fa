"""A baseline that learns no features: ridge regression from simple image features to bags of words and letters.

Images are described by histograms of oriented gradients (Dalal & Triggs, 2005) and mean colours over a grid, texts by
TF-IDF weights of words and of character n-grams; a linear map fitted on the training split takes images to texts, its
regularisation chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from mmjax.data.pp.builder import parse
from mmjax.ops.retrieval import ranks

ALPHAS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)
LARGEST = 20_000  # examples that it is fitted on; more fill the memory


def image_features(images: UInt8[np.ndarray, "N H W 3"], size: int = 48) -> Float[np.ndarray, "N D"]:
    """`pp/image.py`'s `hog` over cells of 8 x 8 pixels."""
    features = parse(f"resize({size})|hog(8)", "image")
    return np.stack([features(image, None).ravel() for image in images])


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
        gram, cross = x.T @ x, x.T @ (y - self._mean)
        held = self._scaler.transform(image_features(validation[0]))
        best = -1.0
        for alpha in ALPHAS:
            weights = np.linalg.solve(gram + alpha * np.eye(len(gram), dtype=np.float32), cross)
            rank, _ = ranks(self.texts(validation[1]), validation[2], _unit(held @ weights), validation[2])
            score = float(np.mean(rank < 10) - 1e-3 * np.median(rank) / len(rank))
            if score > best:
                best, self.alpha, self._weights = score, alpha, weights

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        """Unit vectors of texts."""
        return _unit(self._vectorizer.transform(texts).toarray().astype(np.float32) - self._mean)

    def images(self, images: UInt8[np.ndarray, "N H W 3"]) -> Float[np.ndarray, "N D"]:
        """Unit vectors predicted for images."""
        return _unit(self._scaler.transform(image_features(images)) @ self._weights)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
