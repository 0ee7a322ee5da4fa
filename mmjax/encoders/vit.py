"""Vision transformer: Dosovitskiy et al., 2021, 'An Image is Worth 16x16 Words'.

Pooling by class token (the paper), mean, or an attention pool (Zhai et al., 2022); sin-cos positions after Beyer et
al., 2022, 'Better plain ViT baselines for ImageNet-1k'; registers after Darcet et al., 2024, 'Vision Transformers
Need Registers'. Takes images of any size that the patch divides or, with `grid`, of all sizes and aspect ratios at once, as patches
(Dehghani et al., 2023, 'Patch n' Pack'; Tschannen et al., 2025, 'SigLIP 2', sec. 2.4.2). `variant="B/16"` is a published size;
`"clip-B/16"` has CLIP's details as well (Radford et al., 2021, sec. 2.4, and the released models), `"vit-B/16"` those of the paper's and of
MAE's (He et al., 2022), `"dinov2-B/14"` and `"dinov2-reg-B/14"` those of DINOv2 (Oquab et al., 2023), `"coca-B/32"` and
`"coca-L/14"` those of CoCa in open_clip (Yu et al., 2022), `"imagebind-H/14"`, `"imagebind-depth"` and `"imagebind-thermal"`
those of ImageBind (Girdhar et al., 2023).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Shaped

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.positions import nearest_sizes, shares
from mmjax.nn.transformer import SIZES, AttentionPool, Dtype, QueryPool, Transformer, sizes_bias
from mmjax.ops.masks import masked_mean, zero_where_not

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


def _mean(x: Float[Array, "B N D"], seen: Bool[Array, "B N"] | None, size: Float[Array, "B N"] | None) -> Float[Array, "B D"]:
    """The mean of the patches that are seen, or that the tokens stand for."""
    if seen is not None:
        return masked_mean(x, seen)
    if size is None:
        return x.mean(axis=1)
    return (jnp.einsum("bnd,bn->bd", x.astype(jnp.float32), size) / size.sum(axis=1, keepdims=True)).astype(x.dtype)


class ViT(nn.Module):
    """Images [B, H, W, C] to one token a patch (behind class token and registers) and a pooled vector [B, width].

    With pool="queries" the tokens are what `queries` learned ones, `query_width` wide, find in the class token and the patches; the
    first of them is the pooled vector.

    With `merge=r` every block leaves r fewer tokens: of a B/16's 197 at 224 pixels 101 are left with r=8 and 5 with r=16, for three
    quarters and half of the arithmetic. It needs no training, and parameters are the same with and without. Class token and registers
    are not merged, and a token counts as often as it stands for a patch. `tokens` are those that are left, in no order; `stages`
    have every patch in its place, as the token that it is in.

    With `grid=g` there are g x g positions, laid over every image and resized to its patches, whatever its size ('NaFlex'): those of a
    model trained at g patches a side without, and the same as without on an image of that size. Images may then also be patches
    [B, N, patch * patch * C + 2] with `valid` [B, N], as `patches` of `data/pp/image.py` gives them, of as many sizes as there are
    rows. Positions "factorised" are a row's and a column's, added, g of each (NaViT's, over the share of the side). Decided otherwise
    than by NaViT: a row of the batch holds one image. With as many patches as fit in each, less than 5 % of a row of 256 is padding for
    photographs, so that packing several into one would win little.
    """

    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    pool: str = "mean"  # or "class", "attention", "queries"
    positions: str = "learned"  # or "sincos", "factorised"
    grid: int = 0  # positions a side; 0: as many as the image has patches when the module is initialised
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
    fp8: bool = False  # the blocks' dense layers multiply in 8 bits: see `nn/fp8.py`
    patch_dropout: float = 0.0  # the share of the patches that training leaves out, drawn for each image (Li et al., 2023, 'FLIP', sec. 3)
    merge: int = 0  # patches that each block merges with similar ones (Bolya et al., 2023, 'Token Merging'), half of them at most

    variants = {**VARIANTS, **CLIP_VARIANTS, **PAPER_VARIANTS, **DINOV2_VARIANTS, **COCA_VARIANTS, **IMAGEBIND_VARIANTS}

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"] | Float[Array, "B N P"],
        valid: Shaped[Array, "..."] | None = None,
        present: Bool[Array, " B"] | None = None,
        *,
        train: bool,
    ) -> Encoding:
        self._check(x)
        present = jnp.ones(len(x), bool) if present is None else present
        x, places, sizes, seen = self._cut(x, valid, present) if x.ndim == 3 else (*self._whole(x, present), None)
        x = nn.Dense(self.width, use_bias=self.patch_bias, dtype=self.dtype, name="embedding")(x)
        if self.patch_norm:
            x = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm_patches")(x)
        positions, class_position = self._positions(x.shape[1], places, sizes)
        x = nn.Dropout(self.dropout, deterministic=not train)(x + positions.astype(x.dtype))
        if train and self.patch_dropout:
            x = self._some(x)
        extra = self._class_token + self.registers
        if extra:
            x = jnp.concatenate([self._extra(extra, len(x), class_position), x], axis=1)
        if seen is not None:
            seen = jnp.pad(seen, ((0, 0), (extra, 0)), constant_values=True)
        if self.pre_norm:
            x = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm_pre")(x)
        x, stages, *merged = Transformer(
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
            fp8=self.fp8,
            name="transformer",
        )(x, seen, train=train)
        x, pooled = self._pooled(x, seen, merged[0] if merged else None, extra, train)
        here = jnp.broadcast_to(present[:, None], x.shape[:2])
        return Encoding(x, here if seen is None or self.pool == "queries" else here & seen, pooled, present, stages=stages)

    @property
    def _class_token(self) -> bool:
        return self.pool in ("class", "queries")

    def _check(self, x: Shaped[Array, "B ..."]) -> None:
        kinds = ("learned", "sincos", "factorised")
        if self.pool not in ("mean", "class", "attention", "queries") or self.positions not in kinds:
            told = f"pool={self.pool!r} (mean, class, attention, queries) or positions={self.positions!r} ({', '.join(kinds)})"
            raise ConfigError(f"vit: {told} is unknown.")
        if self.class_position and not (self._class_token and self.positions == "learned"):
            raise ConfigError("vit: class_position=True needs a class token (pool='class' or 'queries') and positions='learned'.")
        if not self.grid and (self.positions == "factorised" or x.ndim == 3):
            what = "positions='factorised'" if self.positions == "factorised" else "images as patches"
            raise ConfigError(f"vit: {what} need grid, the positions a side, such as 224 / patch = {224 // self.patch}.")
        if self.patch_dropout and x.ndim == 3:
            raise ConfigError("vit: patch_dropout leaves out as many patches of every image: not of images as patches, which differ.")

    def _extra(self, count: int, rows: int, class_position: Float[Array, "1 D"] | None) -> Float[Array, "B K D"]:
        """The class token first, then the registers."""
        learned = self.param("extra_tokens", nn.initializers.normal(0.02), (1, count, self.width), jnp.float32)
        if class_position is not None:
            learned = learned.at[:, 0].add(class_position)
        return jnp.broadcast_to(learned.astype(self.dtype), (rows, count, self.width))

    def _pooled(
        self, x: Float[Array, "B N D"], seen: Bool[Array, "B N"] | None, size: Float[Array, "B N"] | None, extra: int, train: bool
    ) -> tuple[Float[Array, "B M E"], Float[Array, "B E"]]:
        """The tokens that are given out, and their pooled vector; `size` says how many patches each stands for."""
        bias = None if size is None else sizes_bias(size, x.dtype)
        if self.pool == "queries":
            x = QueryPool(self.queries, self.query_width, self.query_heads, self.dtype, self.norm_epsilon, name="pool")(x, seen, bias)
        if self._class_token:
            return x, x[:, 0]
        patches = x[:, extra:]
        seen, size, bias = (None if y is None else y[..., extra:] for y in (seen, size, bias))
        if self.pool == "mean":
            return x, _mean(patches, seen, size)
        return x, AttentionPool(self.heads, self.mlp_ratio, self.dtype, name="pool")(patches, seen, bias, train=train)

    def _whole(self, x: Float[Array, "B H W C"], present: Bool[Array, " B"]):
        """Patches [B, N, P], their rows and columns [1, N], and how many there are of either, [1, 1], of images of one size."""
        _, height, width, _ = x.shape
        if height % self.patch or width % self.patch:
            fit = nearest_sizes((height, width), (self.patch, self.patch))
            raise ConfigError(f"vit: patches of {self.patch} do not divide an image of {height} x {width}. Resize it to {fit}.")
        x = zero_where_not(present, x).astype(self.dtype)
        x = rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=self.patch, q=self.patch)
        sizes = height // self.patch, width // self.patch
        places = np.indices(sizes, dtype=np.float32).reshape(2, 1, -1)
        return x, places, tuple(np.full((1, 1), size, np.float32) for size in sizes)

    def _cut(self, x: Float[Array, "B N P"], valid: Bool[Array, "B N"] | None, present: Bool[Array, " B"]):
        """The same of images that come as patches, with places [B, N] and sizes [B, 1], and which patches are real."""
        if (pixels := x.shape[2] - 2) % self.patch**2:
            raise ConfigError(
                f"vit: {pixels} numbers a patch are not {self.patch} x {self.patch} pixels: data.pp has patches of another size."
            )
        seen = jnp.broadcast_to(present[:, None], x.shape[:2]) if valid is None else valid & present[:, None]
        x = zero_where_not(seen, x)
        places = zero_where_not(seen, jnp.round((x[..., -2:] + 1) * (255 / 2)))  # uint8, which became -1 to 1
        places = places[..., 0], places[..., 1]
        return x[..., :-2].astype(self.dtype), places, tuple(place.max(axis=1, keepdims=True) + 1 for place in places), seen

    def _positions(self, count: int, places: Any, sizes: Any) -> tuple[Float[Array, "#B N D"], Float[Array, "1 D"] | None]:
        """Of the patches, and of the class token where it has one."""
        normal, extra = nn.initializers.normal(0.02), int(self.class_position)  # the class token's is the first
        if self.positions == "sincos":
            if self.grid:
                raise ConfigError("vit: positions='sincos' are of images of one size: without grid.")
            return jnp.asarray(sincos_2d(int(sizes[0][0, 0]), int(sizes[1][0, 0]), self.width))[None], None
        if not self.grid:
            positions = self.param("positions", normal, (1, count + extra, self.width), jnp.float32)
            return positions[:, extra:], positions[:, 0] if extra else None
        y, x = (shares(jnp.asarray(place), jnp.asarray(size), self.grid) for place, size in zip(places, sizes, strict=True))
        if self.positions == "factorised":
            tables = [self.param(f"positions_{axis}", normal, (self.grid, self.width), jnp.float32) for axis in "yx"]
            return jnp.einsum("bng,gd->bnd", y, tables[0]) + jnp.einsum("bng,gd->bnd", x, tables[1]), None
        positions = self.param("positions", normal, (1, self.grid**2 + extra, self.width), jnp.float32)
        table = positions[0, extra:].reshape(self.grid, self.grid, self.width)
        return jnp.einsum("bng,bnh,ghd->bnd", y, x, table), positions[:, 0] if extra else None

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
