"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels with their labels, part of the package itself."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from mmjax.config import ConfigError
from mmjax.contract import Table

SPLITS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def pixels() -> tuple[UInt8[np.ndarray, "1797 8 8"], Int[np.ndarray, " 1797"]]:
    """All pictures, white on black, and their digits."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), labels


class Digits:
    """One split ("train", "validation" or "test") of the digits.

    `source[i]` is `{"image": PNG bytes, "label": 3, "key": 17}`, white on black, 8 x 8 pixels, to be resized by the
    operations. Each digit's images are split 80/10/10 by a hash of their pixels. Who wrote what is not recorded, so a
    writer can be in several splits, and figures are higher than for writers who were never seen.

    Raises:
        ConfigError: there is no such split.
    """

    classes = {"label": NAMES}

    def __init__(self, split: str):
        if split not in SPLITS:
            raise ConfigError(f"Digits has no split {split!r}: take one of {', '.join(SPLITS)}.")
        images, labels = pixels()
        hashes = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images]
        rows: list[int] = []
        for digit in range(10):
            ordered = sorted(np.flatnonzero(labels == digit).tolist(), key=lambda i: hashes[i])
            begin, end = (round(share * len(ordered)) for share in SPLITS[split])
            rows += ordered[begin:end]
        self._rows = sorted(rows)
        self._images, self._labels, self.split = images, labels, split
        self.fingerprint = f"digits/{split}/{hashlib.sha256(images[self._rows].tobytes()).hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import cv2

        row = self._rows[index]
        return {"image": cv2.imencode(".png", self._images[row])[1].tobytes(), "label": int(self._labels[row]), "key": row}

    def describe(self) -> dict[str, str | Table]:
        """Whose data this is, and how many images of each digit the split has."""
        counts = np.bincount(self._labels[self._rows], minlength=10).tolist()
        return {
            "attribution": "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning Repository "
            "(https://doi.org/10.24432/C50P49), CC BY 4.0; the test part, as scikit-learn carries it.",
            "classes": Table(
                ["digit", "images"], [list(x) for x in zip(NAMES, counts, strict=True)], f"The {self.split} split, of 1,797 images."
            ),
        }
