"""What belongs together: pictures that look alike, and things joined by pairs of any kind."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8


def thumbnails(images: UInt8[np.ndarray, "N S S 3"]) -> Float[np.ndarray, "N 24 24 3"]:
    """The ink of pictures on white (0 is white, 1 is full), in colour, at 24 x 24; S is a multiple of 24."""
    cell = images.shape[1] // 24
    return 1 - images.reshape(len(images), 24, cell, 24, cell, 3).mean((2, 4), dtype=np.float32) / 255


def distances(a: Float[np.ndarray, "N 24 24 3"], b: Float[np.ndarray, "M 24 24 3"]) -> Float[np.ndarray, "N M"]:
    """Root mean square difference of each two thumbnails, relative to that of their ink: 0 is the same, 1.4 unrelated."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    total = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :]
    return np.sqrt(np.maximum(total - 2 * a @ b.T, 0) / np.maximum(total / 2, 1e-9))


def united(pairs: np.ndarray, count: int) -> list[int]:
    """For each of `count` things the smallest that `pairs` (integers [P, 2]) connect it with."""
    root = list(range(count))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    for a, b in pairs.tolist():
        a, b = sorted((find(a), find(b)))
        root[b] = a
    return [find(i) for i in range(count)]
