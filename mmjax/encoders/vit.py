"""Vision transformer: Dosovitskiy et al., 2021, 'An Image is Worth 16x16 Words'.

Pooling by class token (the paper), mean, or an attention pool (Zhai et al., 2022); sin-cos positions after Beyer et
al., 2022, 'Better plain ViT baselines for ImageNet-1k'; registers after Darcet et al., 2024, 'Vision Transformers
Need Registers'. Takes images of any size that the patch divides. `variant="B/16"` is a published size; `"clip-B/16"`
has CLIP's details as well (Radford et al., 2021, sec. 2.4, and the released models), `"vit-B/16"` those of the paper's and of
MAE's (He et al., 2022), `"dinov2-B/14"` and `"dinov2-reg-B/14"` those of DINOv2 (Oquab et al., 2023), `"coca-B/32"` and
`"coca-L/14"` those of CoCa in open_clip (Yu et al., 2022), `"imagebind-H/14"`, `"imagebind-depth"` and `"imagebind-thermal"`
those of ImageBind (Girdhar et al., 2023).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Shaped

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.positions import nearest_sizes
from mmjax.nn.transformer import SIZES, AttentionPool, Dtype, QueryPool, Transformer, sizes_bias
from mmjax.ops.masks import zero_where_not

PATCHES = {"Ti": (16,), "S": (16, 32), "B": (8, 16, 32), "L": (14, 16, 32), "H": (14,), "So400m": (14, 16), "g": (14,)}
CLIP = {
    "pool": "class",
    "class_position": True,
    "pre_norm": True,
    "patch_bias": False,
    "activation": "quick_gelu",
    "norm_epsilon": 1e-5,
}
VARIANTS = {f"{size}/{patch}": {"patch": patch, **SIZES[size]} for size, patches in PATCHES.items() for patch in patches}
CLIP_VARIANTS = {f"clip-{size}": {**VARIANTS[size], **CLIP} for size in ("B/32", "B/16", "L/14")}
PAPER = {"pool": "class", "class_position": True, "activation": "gelu_exact"}
PAPER_VARIANTS = {f"vit-{size}": {**sizes, **PAPER, "norm_epsilon": 1e-12} for size, sizes in VARIANTS.items() if size[0] in "TSBLH"}
DINOV2_VARIANTS = {
    f"dinov2-{more}{size}/14": {"patch": 14, **SIZES[size], **PAPER, "registers": count}
    for size in ("S", "B", "L")
    for more, count in (("", 0), ("reg-", 4))
}
COCA_VARIANTS = {
    f"coca-{size}": {**VARIANTS[size], **CLIP, "activation": "gelu_exact", "pool": "queries", "query_width": width}
    for size, width in (("B/32", 512), ("L/14", 768))
}
IMAGEBIND = {**PAPER, "patch_bias": False}
IMAGEBIND_VARIANTS = {
    "imagebind-H/14": {**VARIANTS["H/14"], **IMAGEBIND, "pre_norm": True},
    "imagebind-depth": {**VARIANTS["S/16"], **IMAGEBIND, "heads": 8, "patch_norm": True, "bias_kv": True},
    "imagebind-thermal": {**VARIANTS["B/16"], **IMAGEBIND, "patch_norm": True, "bias_kv": True},
}


def sincos_2d(height: int, width: int, dim: int) -> Float[np.ndarray, "N D"]:
    """Fixed position embeddings: a quarter of `dim` each for the sine and cosine of either coordinate."""
    if dim % 4:
        raise ConfigError(f"sin-cos positions need a width that 4 divides, not {dim}.")
    omega = 10_000.0 ** (-np.arange(dim // 4) / max(dim // 4 - 1, 1))
    y, x = (grid.reshape(-1, 1) * omega for grid in np.mgrid[:height, :width])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)


def _mean(x: Float[Array, "B N D"], size: Float[Array, "B N"]) -> Float[Array, "B D"]:
    """The mean of the patches that the tokens stand for."""
    return (jnp.einsum("bnd,bn->bd", x.astype(jnp.float32), size) / size.sum(axis=1, keepdims=True)).astype(x.dtype)


class ViT(nn.Module):
    """Images [B, H, W, C] to one token a patch (behind class token and registers) and a pooled vector [B, width].

    With pool="queries" the tokens are what `queries` learned ones, `query_width` wide, find in the class token and the patches; the
    first of them is the pooled vector.

    With `merge=r` every block leaves r fewer tokens: of a B/16's 197 at 224 pixels 101 are left with r=8 and 5 with r=16, for three
    quarters and half of the arithmetic. It needs no training, and parameters are the same with and without. Class token and registers
    are not merged, and a token counts as often as it stands for a patch. `tokens` are those that are left, in no order; `stages`
    have every patch in its place, as the token that it is in.
    """

    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    pool: str = "mean"  # or "class", "attention", "queries"
    positions: str = "learned"  # or "sincos"
    registers: int = 0
    dropout: float = 0.0
    dtype: Dtype = "float32"
    class_position: bool = False  # the class token has a learned position, too (Dosovitskiy et al., eq. 1)
    pre_norm: bool = False  # a norm before the first block
    patch_bias: bool = True
    patch_norm: bool = False  # a norm behind the patches' layer
    bias_kv: bool = False  # of `nn/transformer.py`'s `Attention`
    queries: int = 256
    query_width: int = 512
    query_heads: int = 8
    activation: str = "gelu"  # of `nn/transformer.py`
    norm_epsilon: float = 1e-6
    remat: bool | str = False  # less memory for more time, by a policy of `nn/transformer.py`
    scan: bool = False  # one program for all blocks, of `nn/transformer.py`
    patch_dropout: float = 0.0  # the share of the patches that training leaves out, drawn for each image (Li et al., 2023, 'FLIP', sec. 3)
    merge: int = 0  # patches that each block merges with similar ones (Bolya et al., 2023, 'Token Merging'), half of them at most

    variants = {**VARIANTS, **CLIP_VARIANTS, **PAPER_VARIANTS, **DINOV2_VARIANTS, **COCA_VARIANTS, **IMAGEBIND_VARIANTS}

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        valid: Shaped[Array, "..."] | None = None,
        present: Bool[Array, " B"] | None = None,
        *,
        train: bool,
    ) -> Encoding:
        rows, height, width, _ = x.shape
        if self.pool not in ("mean", "class", "attention", "queries") or self.positions not in ("learned", "sincos"):
            raise ConfigError(
                f"vit: pool={self.pool!r} (mean, class, attention, queries) or positions={self.positions!r} (learned, sincos) is unknown."
            )
        class_token = self.pool in ("class", "queries")
        if self.class_position and not (class_token and self.positions == "learned"):
            raise ConfigError("vit: class_position=True needs a class token (pool='class' or 'queries') and positions='learned'.")
        if height % self.patch or width % self.patch:
            fit = nearest_sizes((height, width), (self.patch, self.patch))
            raise ConfigError(f"vit: patches of {self.patch} do not divide an image of {height} x {width}. Resize it to {fit}.")
        present = jnp.ones(rows, bool) if present is None else present
        x = zero_where_not(present, x).astype(self.dtype)

        x = rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=self.patch, q=self.patch)
        x = nn.Dense(self.width, use_bias=self.patch_bias, dtype=self.dtype, name="embedding")(x)
        if self.patch_norm:
            x = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm_patches")(x)
        if self.positions == "learned":
            count = x.shape[1] + self.class_position  # the class token's is the first
            positions = self.param("positions", nn.initializers.normal(0.02), (1, count, self.width), jnp.float32)
        else:
            positions = jnp.asarray(sincos_2d(height // self.patch, width // self.patch, self.width))[None]
        x = nn.Dropout(self.dropout, deterministic=not train)(x + positions[:, int(self.class_position) :].astype(x.dtype))
        if train and self.patch_dropout:
            x = self._some(x)

        extra = class_token + self.registers  # the class token first, then the registers
        if extra:
            learned = self.param("extra_tokens", nn.initializers.normal(0.02), (1, extra, self.width), jnp.float32)
            if self.class_position:
                learned = learned.at[:, 0].add(positions[:, 0])
            x = jnp.concatenate([jnp.broadcast_to(learned.astype(x.dtype), (rows, extra, self.width)), x], axis=1)

        if self.pre_norm:
            x = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm_pre")(x)
        x, stages, *sizes = Transformer(
            self.depth,
            self.heads,
            self.mlp_ratio,
            dropout=self.dropout,
            dtype=self.dtype,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            remat=self.remat,
            scan=self.scan,
            final_norm=self.pool != "queries",
            bias_kv=self.bias_kv,
            merge=self.merge,
            protected=extra,
            name="transformer",
        )(x, train=train)
        size = sizes[0] if sizes else None  # how many each token stands for
        bias = None if size is None else sizes_bias(size, x.dtype)
        if self.pool == "queries":
            x = QueryPool(self.queries, self.query_width, self.query_heads, self.dtype, self.norm_epsilon, name="pool")(x, bias=bias)
        if class_token:
            pooled = x[:, 0]
        elif self.pool == "mean":
            pooled = x[:, extra:].mean(axis=1) if size is None else _mean(x[:, extra:], size[:, extra:])
        else:
            pooled = AttentionPool(self.heads, self.mlp_ratio, self.dtype, name="pool")(
                x[:, extra:], bias=None if bias is None else bias[..., extra:], train=train
            )
        return Encoding(x, jnp.broadcast_to(present[:, None], x.shape[:2]), pooled, present, stages=stages)

    def _some(self, x: Float[Array, "B N D"]) -> Float[Array, "B K D"]:
        """As many of each row's patches as training keeps, in order."""
        if not 0 <= self.patch_dropout < 1:
            raise ConfigError(f"vit: patch_dropout={self.patch_dropout} should be at least 0 and below 1.")
        drawn = jax.random.uniform(self.make_rng("dropout"), x.shape[:2])
        kept = jnp.sort(jnp.argsort(drawn, axis=1)[:, : max(round(x.shape[1] * (1 - self.patch_dropout)), 1)], axis=1)
        return jnp.take_along_axis(x, kept[:, :, None], axis=1)

    @classmethod
    def tiny(cls) -> tuple[ViT, dict[str, np.ndarray]]:
        """A small instance with almost everything switched on, and a batch for it."""
        image = np.random.default_rng(0).uniform(-1, 1, (4, 8, 12, 3)).astype(np.float32)
        more = {"registers": 2, "pre_norm": True, "activation": "quick_gelu", "remat": True, "patch_norm": True, "bias_kv": True}
        return cls(patch=4, width=16, depth=2, heads=2, pool="attention", **more), {"image": image}
