"""ViViT's first model, as transformers stores it: Arnab et al., 2021.

init_from=dict(video=dict(name="vivit", path="google/vivit-b-16x2-kinetics400"))

Encoder: `video_transformer` with variant="vivit-B", on 32 frames of 224 x 224.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, blocks, converted, norm, rows
from mmjax.weights.videomae import tubelets
from mmjax.weights.vit import VIT_BLOCK

TABLE = [
    Row("embeddings.cls_token", "class_token", rows, whole=True),
    Row("embeddings.positions", "positions", lambda _, x: {"": x}, whole=True),
    Row("embeddings.patch_embeddings.projection", "embedding", tubelets),
    *blocks("encoder.layer", VIT_BLOCK),
    Row("layernorm", "transformer/norm", norm),
]


class Vivit(Checkpoint):
    """The encoder of a checkpoint, for videos of the size that it was trained on."""

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays}; the class token's position is added to it.

        Raises:
            DataError: it is no ViViT, or of another number of tubelets than is wanted.
        """
        arrays = below(self.arrays(), "vivit.", "")
        if "embeddings.cls_token" not in arrays or "embeddings.position_embeddings" not in arrays:
            raise DataError(f"{self.path} is no ViViT: it has no embeddings.cls_token or position_embeddings.")
        positions = arrays.pop("embeddings.position_embeddings")
        arrays["embeddings.cls_token"] = arrays["embeddings.cls_token"] + positions[:, :1]
        arrays["embeddings.positions"] = gridded(positions[:, 1:], shapes, self.path)
        return {"params": converted(arrays, TABLE, r"pooler\..*|classifier\..*")}


def gridded(positions: np.ndarray, shapes: Mapping[str, tuple[int, ...]], where: str) -> np.ndarray:
    """Positions [1, N, D] in the grid that is wanted.

    Raises:
        DataError: it has another number of places.
    """
    grid = shapes["positions"][1:-1] if "positions" in shapes else (positions.shape[1],)
    if np.prod(grid) != positions.shape[1]:
        raise DataError(f"{where} has {positions.shape[1]} positions, and these inputs {' x '.join(map(str, grid))}.")
    return positions.reshape(1, *grid, -1)
