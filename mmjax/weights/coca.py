"""CoCa, as open_clip stores it: Yu et al., 2022, 'CoCa: Contrastive Captioners are Image-Text Foundation Models'.

init_from=dict(image=dict(name="coca", path=P), image_projection=dict(name="coca", path=P), text=..., text_projection=...)
                                                P = "laion/CoCa-ViT-B-32-laion2B-s13B-b90k"

Encoders: `vit` with variant="coca-B/32" or "coca-L/14", `text_transformer` with variant="coca-B" or "coca-L", vocab=49408,
76 tokens; pixels as CLIP's: see `Coca.config`. Both are CLIP's but for a pool of learned queries and a class token behind the text.
The captioning decoder (`text_decoder...`) is not loaded; what it would attend to are the image's tokens but the first.
"""

from __future__ import annotations

from typing import Any

from mmjax.config import DataError
from mmjax.weights._layers import Row, linear, norm, packed, rows
from mmjax.weights.clip import OPENAI, OPENAI_IMAGE, OPENAI_TEXT, QUERIES, Clip, Layout

IMAGE = [
    *(row for row in OPENAI_IMAGE if row.theirs != "ln_post"),
    Row("attn_pool.query", "pool/queries", rows, whole=True),
    Row("attn_pool.ln_q", "pool/norm_queries", norm),
    Row("attn_pool.ln_k", "pool/norm_context", norm),
    Row("attn_pool.attn", "pool/attention", packed),
    Row("attn_pool.attn.out_proj", "pool/attention/out", linear),
    Row("ln_post", "pool/norm", norm),
]
TEXT = [*OPENAI_TEXT, Row("cls_emb", "class_token", rows, whole=True)]
LAYOUT: Layout = {**OPENAI, "image": (("visual.",), IMAGE, "proj"), "text": (("text.",), TEXT, "text_projection|attn_mask")}


class Coca(Clip):
    """The towers and projections of a checkpoint: `path` is a file, a folder, or a name on the hub.

    Raises:
        DataError: it cannot be read, or is no CoCa of a single pool.
    """

    def layout(self) -> Layout:
        """As of `Clip`."""
        arrays = self.arrays()
        missing = [name for name in (QUERIES, "text.cls_emb") if name not in arrays]
        if missing or any(name.startswith("visual.attn_pool_contrastive.") for name in arrays):
            why = f"it has no {missing[0]}" if missing else "it has a second pool, visual.attn_pool_contrastive, as no published one does"
            raise DataError(f"{self.path} is no CoCa as open_clip publishes them: {why}.")
        return LAYOUT

    def config(self) -> dict[str, Any]:
        """As of `Clip`. How many heads its pool has is in no array: 8, unless open_clip's config says another number."""
        config, arrays = super().config(), self.arrays()
        told = self.json("open_clip_config.json").get("model_cfg", {})
        image, text = (config["model"]["encoders"][side] for side in ("image", "text"))
        count, width = arrays[QUERIES].shape
        heads = told.get("vision_cfg", {}).get("attn_pooler_heads", 8)
        activation = "quick_gelu" if told.get("quick_gelu") else "gelu_exact"
        image |= {"pool": "queries", "queries": count, "query_width": width, "query_heads": heads, "activation": activation}
        text |= {"class_token": True, "activation": activation}
        length = len(arrays["text.positional_embedding"]) - 1
        return {**config, "pp": {**config["pp"], "text": f"tokens({length})"}, "sizes": {**config["sizes"], "text": (length,)}}
