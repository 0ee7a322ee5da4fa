"""big_vision's own checkpoints (npz): ViT, SigLIP, LiT; Beyer et al., 2022; Zhai et al., 2022, 'LiT'; Zhai et al., 2023.

init_from=dict(image=dict(name="big_vision", path="webli_en_b16_224.npz"), text=..., text_projection=...)

Encoders: `vit` by the model's size, with pool="mean", "class" or "attention" as it was trained (gap, tok, map there), and
`text_transformer` with causal=False and, for a text that is pooled by its last token, see_padding in `tokens`. A head is the
projection behind a tower, "affine".
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from einops import rearrange

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import How, Row, below, blocks, converted, resized, rows


def _same(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    return {name: x}


def _heads(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """[in, heads, D] to [in, heads * D]."""
    return {name: x.reshape(*x.shape[:-2], -1)}


def _out(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """[heads, D, out] to [heads * D, out]."""
    return {name: x.reshape(-1, x.shape[-1]) if name == "kernel" else x}


def _patches(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    return {name: rearrange(x, "p q c o -> (p q c) o") if name == "kernel" else x}


ATTENTION: list[tuple[str, str, How]] = [
    *((f"MultiHeadDotProductAttention_0.{part}", f"attention/{part}", _heads) for part in ("query", "key", "value")),
    ("MultiHeadDotProductAttention_0.out", "attention/out", _out),
    ("MlpBlock_0.Dense_0", "mlp/in", _same),
    ("MlpBlock_0.Dense_1", "mlp/out", _same),
]
BLOCK = [*ATTENTION, ("LayerNorm_0", "norm_1", _same), ("LayerNorm_1", "norm_2", _same)]
IMAGE = [
    Row("cls", "extra_tokens", rows, whole=True),
    Row("pos_embedding", "positions", rows, whole=True),
    Row("embedding", "embedding", _patches),
    *(row._replace(theirs=row.theirs.replace(".{}.", "_{}.", 1)) for row in blocks("Transformer.encoderblock", BLOCK)),
    Row("Transformer.encoder_norm", "transformer/norm", _same),
    Row("MAPHead_0.probe", "pool/probe", rows, whole=True),
    *(Row(f"MAPHead_0.{theirs}", f"pool/{ours}", how) for theirs, ours, how in [*ATTENTION, ("LayerNorm_0", "norm", _same)]),
]
TEXT = [
    Row("pos_embedding", "positions", rows, whole=True),
    Row("Embed_0", "embedding", _same),
    *(row._replace(theirs=row.theirs.replace(".{}.", "_{}.", 1)) for row in blocks("Encoder_0.encoderblock", BLOCK)),
    Row("Encoder_0.encoder_norm", "transformer/norm", _same),
]


class BigVision(Checkpoint):
    """A tower, or the projection behind it, of a checkpoint of one or two."""

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays} of `image...`, `text...` or one of their projections; positions of images fit the size that is wanted.

        Raises:
            DataError: it is no checkpoint of big_vision, or has no such part.
        """
        side = {"image": "img", "text": "txt"}.get(part.split("_", 1)[0])
        arrays = {name.replace("/", "."): x for name, x in self.arrays().items()}
        arrays = below(arrays, f"params.{side}.", f"{side}.", "params.", "")
        projection = part.endswith("_projection")
        wanted = "head.kernel" if projection else "pos_embedding" if side == "txt" else "embedding.kernel"
        if side is None or wanted not in arrays:
            raise DataError(f"{self.path} has no part {part!r}: there is no {wanted} among its arrays, as big_vision calls it.")
        if projection:
            return {"params": converted(arrays, [Row("head", "", _same)], r"(?!head\.).*")}
        twice = arrays.pop("Encoder_0.pos_embedding", None)  # some were trained with two of them
        if twice is not None:
            arrays["pos_embedding"] = arrays["pos_embedding"] + twice
        found = converted(_unstacked(arrays), TEXT if side == "txt" else IMAGE, r"head\..*|pre_logits\..*|[tb]")
        if side == "img" and "positions" in found and "positions" in shapes:
            found["positions"] = resized(found["positions"], shapes["positions"][1], 0, self.path)
        return {"params": found}


def _unstacked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Blocks that were trained in one scan, apart."""
    out: dict[str, np.ndarray] = {}
    for name, x in arrays.items():
        before, scanned, after = name.partition(".encoderblock.")
        out |= {f"{before}.encoderblock_{i}.{after}": y for i, y in enumerate(x)} if scanned else {name: x}
    return out
