"""Swin transformers of images, as transformers stores them: Liu et al., 2021.

init_from=dict(image=dict(name="swin", path="microsoft/swin-tiny-patch4-window7-224"))

Encoder: `swin` with variant="T", "S", "B" or "L"; `window` too, where a checkpoint is of another.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, converted, linear, norm, patches
from mmjax.weights.bert import BLOCK as BERT_BLOCK
from mmjax.weights.vit import VIT_BLOCK

BLOCK = (*BERT_BLOCK[:4], *VIT_BLOCK[4:])  # attention is called as in BERT, the rest as in ViT


def stages(theirs: str) -> list[Row]:
    """The rows of all stages, called `<theirs>.{}`."""
    here = "stage_{}_block_{:02d}"
    table = "attention.self.relative_position_bias_table"
    return [
        *(Row(f"{theirs}.{{}}.blocks.{{}}.{name}", f"{here}/{ours}", how) for name, ours, how in BLOCK),
        Row(f"{theirs}.{{}}.blocks.{{}}.{table}", f"{here}/positions", lambda name, x: {"": x}, whole=True),
        Row(f"{theirs}.{{}}.downsample.norm", "stage_{}_merge_norm", norm),
        Row(f"{theirs}.{{}}.downsample.reduction", "stage_{}_merge", linear),
    ]


TABLE = [
    Row("embeddings.patch_embeddings.projection", "embedding", patches),
    Row("embeddings.norm", "embedding_norm", norm),
    *stages("encoder.layers"),
    Row("layernorm", "norm", norm),
]
UNUSED = r".*relative_position_index|classifier\..*|embeddings\.mask_token|decoder\..*"


class Swin(Checkpoint):
    """The encoder of a checkpoint; its classifier is left out."""

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays}.

        Raises:
            DataError: it is no Swin transformer.
        """
        arrays = below(self.arrays(), "swin.", "")
        if (first := "encoder.layers.0.blocks.0.attention.self.relative_position_bias_table") not in arrays:
            raise DataError(f"{self.path} is no Swin transformer: it has no {first}.")
        return {"params": converted(arrays, TABLE, UNUSED)}
