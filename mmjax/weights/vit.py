"""Vision transformers trained on images alone, as transformers and timm store them: ViT, DINOv2 (with registers or not), MAE.

init_from=dict(image=dict(name="vit", path="google/vit-base-patch16-224-in21k"))

Encoder: `vit` with variant="vit-B/16" (ViT and MAE) or "dinov2-B/14". Dosovitskiy et al., 2021; Steiner et al., 2022 (timm's
"augreg"); Oquab et al., 2023; Darcet et al., 2024; He et al., 2022. DINOv2's scales of residuals (LayerScale, Touvron et al.,
2021) are multiplied into the layer before them, which is the same function.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, blocks, converted, linear, norm, packed, patches, resized, rows, scaled

HF_PARTS = (
    ("attention.attention.query", "attention/query", linear),
    ("attention.attention.key", "attention/key", linear),
    ("attention.attention.value", "attention/value", linear),
    ("attention.output.dense", "attention/out", linear),
)
VIT_BLOCK = (
    *HF_PARTS,
    ("layernorm_before", "norm_1", norm),
    ("layernorm_after", "norm_2", norm),
    ("intermediate.dense", "mlp/in", linear),
    ("output.dense", "mlp/out", linear),
)
DINOV2_BLOCK = (
    *HF_PARTS,
    ("norm1", "norm_1", norm),
    ("norm2", "norm_2", norm),
    ("mlp.fc1", "mlp/in", linear),
    ("mlp.fc2", "mlp/out", linear),
)
TIMM_BLOCK = (
    ("attn.qkv", "attention", packed),
    ("attn.proj", "attention/out", linear),
    ("norm1", "norm_1", norm),
    ("norm2", "norm_2", norm),
    ("mlp.fc1", "mlp/in", linear),
    ("mlp.fc2", "mlp/out", linear),
)
HF = [
    Row("embeddings.extra", "extra_tokens", rows, whole=True),
    Row("embeddings.position_embeddings", "positions", rows, whole=True),
    Row("embeddings.patch_embeddings.projection", "embedding", patches),
    *blocks("encoder.layer", (*VIT_BLOCK, *DINOV2_BLOCK[4:])),
    Row("layernorm", "transformer/norm", norm),
]
TIMM = [
    Row("extra", "extra_tokens", rows, whole=True),
    Row("pos_embed", "positions", rows, whole=True),
    Row("patch_embed.proj", "embedding", patches),
    *blocks("blocks", TIMM_BLOCK),
    Row("norm", "transformer/norm", norm),
]
# What the scale of a residual belongs to: the layer that ends the branch.
SCALES = {
    r"(encoder\.layer\.\d+\.)layer_scale1\.lambda1": "{}attention.output.dense",
    r"(encoder\.layer\.\d+\.)layer_scale2\.lambda1": "{}mlp.fc2",
    r"(blocks\.\d+\.)ls1\.gamma": "{}attn.proj",
    r"(blocks\.\d+\.)ls2\.gamma": "{}mlp.fc2",
}
UNUSED = r"pooler\..*|classifier\..*|head\..*|fc_norm\..*|decoder\..*|.*mask_token"


class Vit(Checkpoint):
    """The encoder of a checkpoint: `path` is a file, a folder, or a name on the hub.

    Raises:
        DataError: it cannot be read, or is no such encoder.
    """

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays}; positions fit the size of the images that is wanted."""
        arrays = below(self.arrays(), "vit.", "dinov2.", "dinov2_with_registers.", "")
        timm = "pos_embed" in arrays
        begin = "" if timm else "embeddings."
        token, registers = (f"{begin}{name}" for name in (("cls_token", "reg_token") if timm else ("cls_token", "register_tokens")))
        if token not in arrays:
            raise DataError(f"{self.path} is no vision transformer with a class token: it has no {token}.")
        arrays = scaled(arrays, SCALES)
        extra = [arrays.pop(token), *([arrays.pop(registers)] if registers in arrays else [])]
        arrays[f"{begin}extra"] = np.concatenate(extra, axis=1)
        found = converted(arrays, TIMM if timm else HF, UNUSED)
        if "positions" in found and "positions" in shapes:
            found["positions"] = resized(found["positions"], shapes["positions"][1], 1, self.path)
        return {"params": found}
