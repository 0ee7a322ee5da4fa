"""Which pictures look the same, though their bytes differ."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Int, UInt8, UInt64

# The largest difference, of 1, between two thumbnails in any cell and colour. It is met by all copies that were recompressed
# (JPEG quality 50), halved or made 10 % brighter, of 240 OpenMoji drawings and 48 cuttings from photographs; of those cropped
# by 1.5 % a side by 99 % of the drawings and 58 % of the photographs. A neutral face and one with crosses for eyes, the
# nearest drawings of different concepts in different splits, are 0.17 apart.
DIFFERENCE = 0.16
SIDE = 16  # cells of a thumbnail
NEAR = 12  # bits in which the hashes of candidates differ at most
BANDS = 8  # of 8 bits each: of hashes that differ in fewer bits than there are bands, one band at least is equal
WINDOW = 1_024  # neighbours that a hash is compared with, where more share a band with it


class Look(NamedTuple):
    """What two pictures are compared by: the hash finds candidates, the thumbnail decides."""

    hash: np.uint64
    thumbnail: UInt8[np.ndarray, "16 16 3"]


def look(image: UInt8[np.ndarray, "H W C"]) -> Look:
    """The DCT hash of a picture (Zauner, 2010, 'Implementation and Benchmarking of Perceptual Image Hash Functions',
    sec. 3.2: which of the 8 x 8 lowest frequencies are above their median) and a thumbnail in colour.
    """
    rgb = image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)
    grey = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = np.rint(cv2.dct(grey)[:8, :8].ravel() / 8)  # in steps of half a grey level, so that noise on one colour has no hash
    bits = np.packbits(low > np.median(low[1:]))
    return Look(bits.view(np.uint64)[0], np.asarray(cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA)))


def alike(hashes: UInt64[np.ndarray, " N"], thumbnails: UInt8[np.ndarray, "N 16 16 3"]) -> Int[np.ndarray, " N"]:
    """A label for every picture; equal ones look alike, or are joined by a chain of pictures that do.

    Candidates share a band of their hash (as in Manku et al., 2007, 'Detecting Near-Duplicates for Web Crawling', sec. 3):
    they are sorted by each band in turn and compared with their next neighbours, up to WINDOW of them.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(hashes):
        return np.zeros(0, np.int32)
    flat = np.ascontiguousarray(thumbnails).reshape(len(hashes), -1)
    _, first, same = np.unique(flat.view(f"V{flat.shape[1]}").ravel(), return_index=True, return_inverse=True)
    pairs = _pairs(hashes[first], flat[first])
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(first), len(first)))
    return connected_components(graph, directed=False)[1][same]


def _pairs(hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """[P, 2]: pictures whose hashes are near and whose thumbnails agree."""
    found, width = [np.zeros((0, 2), np.intp)], 64 // BANDS
    for shift in range(0, 64, width):
        turned = (hashes << np.uint64(shift)) | (hashes >> np.uint64((64 - shift) % 64))  # the band in front
        order = np.argsort(turned)
        turned = turned[order]
        band, rows = turned >> np.uint64(64 - width), np.arange(len(order))
        for step in range(1, WINDOW + 1):
            rows = rows[: np.searchsorted(rows, len(order) - step)]
            rows = rows[band[rows] == band[rows + step]]
            if not len(rows):
                break
            near = rows[np.bitwise_count(turned[rows] ^ turned[rows + step]) <= NEAR]
            a, b = order[near], order[near + step]
            difference = np.abs(thumbnails[a].astype(np.int16) - thumbnails[b]).max(axis=1, initial=0)
            agree = difference <= DIFFERENCE * 255
            found.append(np.stack([a[agree], b[agree]], axis=1))
    return np.concatenate(found)
