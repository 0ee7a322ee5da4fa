"""CLIP, as transformers, OpenAI (its own TorchScript files too) and open_clip store it, part by part.

init_from=dict(image=dict(name="clip", path=P), image_projection=dict(name="clip", path=P), text=..., text_projection=...)

Encoders: `vit` with variant="clip-B/32" and its like, `text_transformer` with variant="clip-B", vocab=49408, 77 tokens; pixels
by `batch_pp` "standardise(...)": see `Clip.config`. Radford et al., 2021; Cherti et al., 2023 (open_clip, whose models have
GELU instead of quick GELU unless they are called "quickgelu"). With ResNets the image encoder is `resnet`, variant="clip-50" and
its like, whose last layer is the projection: projection=dict(image="none").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import (
    Row,
    below,
    blocks,
    conv,
    converted,
    embedding,
    linear,
    norm,
    packed,
    part_kind,
    patches,
    plain,
    resized,
    rows,
    tower,
    transposed,
    variables,
)
from mmjax.weights.resnet import TORCH, batch_norm, stages_from_zero

HF_BLOCK = (
    ("self_attn.q_proj", "attention/query", linear),
    ("self_attn.k_proj", "attention/key", linear),
    ("self_attn.v_proj", "attention/value", linear),
    ("self_attn.out_proj", "attention/out", linear),
    ("layer_norm1", "norm_1", norm),
    ("layer_norm2", "norm_2", norm),
    ("mlp.fc1", "mlp/in", linear),
    ("mlp.fc2", "mlp/out", linear),
)
HF_IMAGE = [
    Row("embeddings.class_embedding", "extra_tokens", rows, whole=True),
    Row("embeddings.patch_embedding", "embedding", patches),
    Row("embeddings.position_embedding.weight", "positions", rows, whole=True),
    Row("pre_layrnorm", "norm_pre", norm),
    *blocks("encoder.layers", HF_BLOCK),
    Row("post_layernorm", "transformer/norm", norm),
]
HF_TEXT = [
    Row("embeddings.token_embedding", "embedding", embedding),
    Row("embeddings.position_embedding.weight", "positions", rows, whole=True),
    *blocks("encoder.layers", HF_BLOCK),
    Row("final_layer_norm", "transformer/norm", norm),
]

OPENAI_BLOCK = (
    ("attn", "attention", packed),
    ("attn.out_proj", "attention/out", linear),
    ("ln_1", "norm_1", norm),
    ("ln_2", "norm_2", norm),
    ("mlp.c_fc", "mlp/in", linear),
    ("mlp.c_proj", "mlp/out", linear),
)
OPENAI_IMAGE = [
    Row("class_embedding", "extra_tokens", rows, whole=True),
    Row("conv1", "embedding", patches),
    Row("positional_embedding", "positions", rows, whole=True),
    Row("ln_pre", "norm_pre", norm),
    *blocks("transformer.resblocks", OPENAI_BLOCK),
    Row("ln_post", "transformer/norm", norm),
]
OPENAI_TEXT = [
    Row("token_embedding", "embedding", embedding),
    Row("positional_embedding", "positions", rows, whole=True),
    *blocks("transformer.resblocks", OPENAI_BLOCK),
    Row("ln_final", "transformer/norm", norm),
]
RESNET_IMAGE = [
    *(Row(f"conv{i + 1}", f"stem_{i}", conv) for i in range(3)),
    *(Row(f"bn{i + 1}", f"stem_norm_{i}", batch_norm) for i in range(3)),
    *(row for row in TORCH if row.ours.startswith("stage_")),
    Row("attnpool.positional_embedding", "pool/positions", rows, whole=True),
    *(Row(f"attnpool.{t}_proj", f"pool/{ours}", linear) for t, ours in {"q": "query", "k": "key", "v": "value", "c": "out"}.items()),
]
NOT_TEXT = r"visual\..*|logit_scale|logit_bias|text_projection|(.*\.)?attn_mask|context_length|input_resolution|vocab_size"

# By part: where it lies, its rows, what else lies there.
Layout = Mapping[str, tuple[tuple[str, ...], list[Row], str]]
HF: Layout = {
    "image": (("vision_model.",), HF_IMAGE, r".*\.position_ids"),
    "text": (("text_model.",), HF_TEXT, r".*\.position_ids"),
    "image_projection": (("",), [Row("visual_projection.weight", "", transposed, whole=True)], r"(?!visual_projection).*"),
    "text_projection": (("",), [Row("text_projection.weight", "", transposed, whole=True)], r"(?!text_projection).*"),
}
OPENAI: Layout = {
    "image": (("visual.",), OPENAI_IMAGE, "proj"),
    "text": (("text.", ""), OPENAI_TEXT, NOT_TEXT),
    "image_projection": (("visual.",), [Row("proj", "", plain, whole=True)], r"(?!proj$).*"),
    "text_projection": (("text.", ""), [Row("text_projection", "", plain, whole=True)], r"(?!text_projection$).*"),
}

RESNET, QUERIES = "visual.layer1.0.conv1.weight", "visual.attn_pool.query"  # what tells them from a vision transformer of CLIP
BLOCKS = (r"transformer\.resblocks\.(\d+)\.", r"transformer\.resblocks\.0\.mlp\.c_fc\.weight")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of its training images, in 0..1


class Clip(Checkpoint):
    """The towers and projections of a checkpoint: `path` is a file, a folder, or a name on the hub, as in "openai/clip-vit-base-patch32".

    Raises:
        DataError: it cannot be read, or is no CLIP of vision transformers.
    """

    def layout(self) -> Layout:
        """Where its parts lie.

        Raises:
            DataError: it is no checkpoint of this family.
        """
        arrays = self.arrays()
        if QUERIES in arrays:
            raise DataError(f"{self.path} is a CoCa: take name='coca'.")
        if "vision_model.embeddings.class_embedding" in arrays:
            return HF
        if "visual.proj" in arrays or RESNET in arrays:
            return OPENAI
        raise DataError(f"{self.path} is no CLIP.")

    def config(self) -> dict[str, Any]:
        """The model and data of a config that take all of it, `scale`, the factor of its similarities, and `sizes` of what it reads."""
        arrays, hf, told = self.arrays(), self.layout() is HF, self.json("config.json")
        if not hf and "visual.class_embedding" not in arrays:
            raise DataError(f"{self.path} is no CLIP with vision transformers, which alone can say how they are made. A config can.")
        (image,), text = (HF if hf else OPENAI)["image"][0], below(arrays, *(HF if hf else OPENAI)["text"][0])
        image = below(arrays, image)
        eyes, words = told.get("vision_config", {}), told.get("text_config", {})
        quick = self.json("open_clip_config.json").get("model_cfg", {}).get("quick_gelu", "open_clip" not in Path(self.path).name)
        quick = eyes.get("hidden_act", "quick_gelu") == "quick_gelu" if hf else quick
        more = {"activation": "quick_gelu" if quick else "gelu_exact", "norm_epsilon": 1e-5}
        block = (r"encoder\.layers\.(\d+)\.", r"encoder\.layers\.0\.mlp\.fc1\.weight") if hf else BLOCKS
        patch = image["embeddings.patch_embedding.weight" if hf else "conv1.weight"]
        places = image["embeddings.position_embedding.weight" if hf else "positional_embedding"]
        table = text["embeddings.token_embedding.weight" if hf else "token_embedding.weight"]
        length = len(text["embeddings.position_embedding.weight" if hf else "positional_embedding"])
        size = patch.shape[2] * round((len(places) - 1) ** 0.5)
        vit = {"pool": "class", "class_position": True, "pre_norm": True, "patch_bias": False, "patch": patch.shape[2]}
        joint = arrays["visual_projection.weight"].shape[0] if hf else image["proj"].shape[1]
        encoders = {
            "image": {"name": "vit", **vit, **more, **tower(image, block[0], len(patch), block[1], eyes.get("num_attention_heads"))},
            "text": {
                "name": "text_transformer",
                "vocab": len(table),
                **more,
                **tower(text, block[0], table.shape[1], block[1], words.get("num_attention_heads")),
            },
        }
        scale = arrays.get("logit_scale")
        return {
            "model": {"name": "aligner", "width": joint, "encoders": encoders},
            "pp": {"image": f"decode({size})|resize_small({size})|central_crop({size})", "text": f"tokens({length})"},
            "batch_pp": {"image": f"standardise({MEAN}, {STD})"},
            "scale": 100.0 if scale is None else float(np.exp(scale)),
            "sizes": {"image": (size, size, 3), "text": (length,)},
        }

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays} of `image...`, `text...` or one of their projections; positions of images fit the size that is wanted."""
        arrays, layout, kind = self.arrays(), self.layout(), part_kind(part)
        if kind not in layout:
            raise DataError(f"{self.path} has no part {part!r}: {', '.join(layout)}.")
        if RESNET in arrays and kind == "image":  # its last layer is the projection
            found = converted(stages_from_zero(below(arrays, "visual.")), RESNET_IMAGE, r".*\.num_batches_tracked")
            return variables(found)
        prefixes, table, unused = layout[kind]
        found = converted(below(arrays, *prefixes), table, unused)
        if kind == "image" and "positions" in found and "positions" in shapes:
            found["positions"] = resized(found["positions"], shapes["positions"][1], 1, self.path)
        return {"params": found}
