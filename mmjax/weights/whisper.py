"""Whisper's encoder, as transformers stores it: Radford et al., 2022.

init_from=dict(audio=dict(name="whisper", path="openai/whisper-base"))

Encoder: `spectrogram_transformer` with variant="whisper-base" and its like, on log-mel of 80 bins as Whisper computes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, blocks, conv, converted, linear, norm

BLOCK = (
    ("self_attn.q_proj", "attention/query", linear),
    ("self_attn.k_proj", "attention/key", linear),
    ("self_attn.v_proj", "attention/value", linear),
    ("self_attn.out_proj", "attention/out", linear),
    ("self_attn_layer_norm", "norm_1", norm),
    ("final_layer_norm", "norm_2", norm),
    ("fc1", "mlp/in", linear),
    ("fc2", "mlp/out", linear),
)
TABLE = [
    Row("conv1", "conv_0", conv),
    Row("conv2", "conv_1", conv),
    *blocks("layers", BLOCK),
    Row("layer_norm", "transformer/norm", norm),
]


class Whisper(Checkpoint):
    """The encoder of a checkpoint; its positions are fixed ones, and the decoder is left out."""

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays}.

        Raises:
            DataError: it is no Whisper.
        """
        arrays = below(self.arrays(), "model.encoder.", "encoder.")
        if "conv2.weight" not in arrays:
            raise DataError(f"{self.path} is no Whisper: it has no encoder.conv2.weight.")
        return {"params": converted(arrays, TABLE, r"embed_positions\.weight")}
