"""TimeSformer with divided attention, as transformers stores it: Bertasius et al., 2021.

init_from=dict(video=dict(name="timesformer", path="facebook/timesformer-base-finetuned-k400"))

Encoder: `video_transformer` with variant="timesformer-B", on 8 frames of 224 x 224.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, blocks, converted, linear, norm, packed, patches, rows
from mmjax.weights.vivit import gridded

BLOCK = (
    ("temporal_layernorm", "norm_time", norm),
    ("temporal_attention.attention.qkv", "attention_time", packed),
    ("temporal_attention.output.dense", "attention_time/out", linear),
    ("temporal_dense", "out_time", linear),
    ("layernorm_before", "norm_1", norm),
    ("attention.attention.qkv", "attention", packed),
    ("attention.output.dense", "attention/out", linear),
    ("layernorm_after", "norm_2", norm),
    ("intermediate.dense", "mlp/in", linear),
    ("output.dense", "mlp/out", linear),
)
TABLE = [
    Row("embeddings.cls_token", "class_token", rows, whole=True),
    Row("embeddings.positions", "positions", lambda _, x: {"": x}, whole=True),
    Row("embeddings.time_embeddings", "time_positions", rows, whole=True),
    Row("embeddings.patch_embeddings.projection", "embedding", patches),
    *(row._replace(ours=row.ours.removeprefix("transformer/")) for row in blocks("encoder.layer", BLOCK)),
    Row("layernorm", "norm_tokens", norm),
]


class Timesformer(Checkpoint):
    """The encoder of a checkpoint, for videos of the size that it was trained on."""

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays}; the class token's position is added to it.

        Raises:
            DataError: it is no TimeSformer of divided attention, or of another number of patches than is wanted.
        """
        arrays = below(self.arrays(), "timesformer.", "")
        if "encoder.layer.0.temporal_dense.weight" not in arrays:
            raise DataError(f"{self.path} is no TimeSformer of divided attention: it has no encoder.layer.0.temporal_dense.weight.")
        positions = arrays.pop("embeddings.position_embeddings")
        arrays["embeddings.cls_token"] = arrays["embeddings.cls_token"] + positions[:, :1]
        arrays["embeddings.positions"] = gridded(positions[:, 1:], shapes, self.path)
        return {"params": converted(arrays, TABLE, r"classifier\..*")}
