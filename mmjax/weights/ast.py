"""The Audio Spectrogram Transformer, as transformers stores it: Gong et al., 2021.

init_from=dict(audio=dict(name="ast", path="MIT/ast-finetuned-audioset-10-10-0.4593"))

Encoder: `spectrogram_transformer` with variant="ast", on 1,024 frames of 128 log-mel bins as AST computes and scales them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from einops import rearrange

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, blocks, converted, norm, rows
from mmjax.weights.vit import VIT_BLOCK


def mel_patches(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """A convolution over frequency and time to one over time and frequency."""
    return {"kernel": rearrange(x, "d c f t -> t f c d")} if name == "weight" else {"bias": x}


TABLE = [
    Row("embeddings.extra", "extra_tokens", rows, whole=True),
    Row("embeddings.extra_positions", "extra_positions", rows, whole=True),
    Row("embeddings.positions", "positions", lambda name, x: {"": x}, whole=True),
    Row("embeddings.patch_embeddings.projection", "embedding", mel_patches),
    *blocks("encoder.layer", VIT_BLOCK),
    Row("layernorm", "transformer/norm", norm),
]


class Ast(Checkpoint):
    """The encoder of a checkpoint, for spectrograms of the size that it was trained on."""

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays}.

        Raises:
            DataError: it is no AST, or of another number of patches than is wanted.
        """
        arrays = below(self.arrays(), "audio_spectrogram_transformer.", "")
        if "embeddings.distillation_token" not in arrays:
            raise DataError(f"{self.path} is no AST: it has no embeddings.distillation_token.")
        positions = arrays.pop("embeddings.position_embeddings")
        grid = shapes["positions"][1:3] if "positions" in shapes else (1, positions.shape[1] - 2)
        if positions.shape[1] - 2 != grid[0] * grid[1]:
            raise DataError(f"{self.path} has {positions.shape[1] - 2} patches, and this spectrogram {grid[0]} x {grid[1]}.")
        arrays["embeddings.extra"] = np.concatenate([arrays.pop(f"embeddings.{n}_token") for n in ("cls", "distillation")], axis=1)
        arrays["embeddings.extra_positions"] = positions[:, :2]
        arrays["embeddings.positions"] = positions[:, 2:].reshape(1, *grid, -1)
        return {"params": converted(arrays, TABLE, r"classifier\..*")}
