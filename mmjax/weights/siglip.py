"""SigLIP and SigLIP 2 at fixed resolution, as transformers stores them: Zhai et al., 2023; Tschannen et al., 2025.

init_from=dict(image=dict(name="siglip", path=P), text=dict(name="siglip", path=P), text_projection=dict(name="siglip", path=P))

Encoders: `vit` with variant="B/16" (or as the checkpoint is called) and pool="attention", projection "none";
`text_transformer` with variant="B", causal=False, vocab=32000 (SigLIP 2: 256000), 64 tokens, all of them valid (they were
trained to see their padding), projection "affine".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, blocks, converted, embedding, linear, norm, packed, part_kind, patches, resized, rows, tower
from mmjax.weights.clip import HF_BLOCK

IMAGE = [
    Row("embeddings.patch_embedding", "embedding", patches),
    Row("embeddings.position_embedding.weight", "positions", rows, whole=True),
    *blocks("encoder.layers", HF_BLOCK),
    Row("post_layernorm", "transformer/norm", norm),
    Row("head.probe", "pool/probe", rows, whole=True),
    Row("head.attention", "pool/attention", packed),
    Row("head.attention.out_proj", "pool/attention/out", linear),
    Row("head.layernorm", "pool/norm", norm),
    Row("head.mlp.fc1", "pool/mlp/in", linear),
    Row("head.mlp.fc2", "pool/mlp/out", linear),
]
TEXT = [
    Row("embeddings.token_embedding", "embedding", embedding),
    Row("embeddings.position_embedding.weight", "positions", rows, whole=True),
    *blocks("encoder.layers", HF_BLOCK),
    Row("final_layer_norm", "transformer/norm", norm),
]
PARTS = {
    "image": ("vision_model.", IMAGE, r".*\.position_ids"),
    "text": ("text_model.", TEXT, r".*\.position_ids|head\..*"),
    "text_projection": ("text_model.", [Row("head", "", linear)], r"(?!head\.).*"),
}


class Siglip(Checkpoint):
    """The towers of a checkpoint: `path` is a file, a folder, or a name on the hub, as in "google/siglip-base-patch16-224".

    Raises:
        DataError: it cannot be read, or is no SigLIP.
    """

    def config(self) -> dict[str, Any]:
        """The model and data of a config that take all of it, `scale`, the factor of its similarities, and `sizes` of what it reads."""
        arrays, told = self.arrays(), self.json("config.json")
        if "vision_model.head.probe" not in arrays:
            raise DataError(f"{self.path} is no SigLIP: it has no vision_model.head.probe.")
        image, text = below(arrays, "vision_model."), below(arrays, "text_model.")
        patch, table = image["embeddings.patch_embedding.weight"], text["embeddings.token_embedding.weight"]
        length, count = len(text["embeddings.position_embedding.weight"]), len(image["embeddings.position_embedding.weight"])
        size = patch.shape[2] * round(count**0.5)
        block = (r"encoder\.layers\.(\d+)\.", r"encoder\.layers\.0\.mlp\.fc1\.weight")
        heads = [told.get(f"{side}_config", {}).get("num_attention_heads") for side in ("vision", "text")]
        encoders = {
            "image": {
                "name": "vit",
                "pool": "attention",
                "patch": patch.shape[2],
                **tower(image, block[0], len(patch), block[1], heads[0]),
            },
            "text": {
                "name": "text_transformer",
                "vocab": len(table),
                "causal": False,
                **tower(text, block[0], table.shape[1], block[1], heads[1]),
            },
        }
        projection = {"image": "none", "text": "affine"}
        return {
            "model": {"name": "aligner", "width": len(patch), "encoders": encoders, "projection": projection},
            "pp": {"image": f"decode({size})|resize({size})", "text": f"lower|tokens({length}, True)"},
            "batch_pp": {},  # pixels in [-1, 1], as they are here anyway
            "scale": float(np.exp(arrays["logit_scale"].ravel()[0])),
            "sizes": {"image": (size, size, 3), "text": (length,)},
        }

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays} of `image...`, `text...` or `text_projection`; positions of images fit the size that is wanted."""
        arrays = self.arrays()
        kind = part_kind(part)
        if "vision_model.head.probe" not in arrays:
            raise DataError(f"{self.path} is no SigLIP: it has no vision_model.head.probe.")
        if kind not in PARTS:
            raise DataError(f"{self.path} has no part {part!r}: {', '.join(PARTS)}.")
        prefix, table, unused = PARTS[kind]
        found = converted(below(arrays, prefix), table, unused)
        if kind == "image" and "positions" in found and "positions" in shapes:
            found["positions"] = resized(found["positions"], shapes["positions"][1], 0, self.path)
        return {"params": found}
