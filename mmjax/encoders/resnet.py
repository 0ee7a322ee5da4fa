"""Residual networks: He et al., 2016, 'Deep Residual Learning', bottleneck form with the stride in the 3x3 layer (v1.5).

`norm="batch"` is the paper's; `norm="group"` after Wu & He, 2018, has no statistics to carry and no batch to depend on.
`stem="small"` (a 3x3 convolution, no pooling) is the usual one for images of 32 to 64 pixels (He et al., 2016, sec. 4.2).
`stem="deep"` and `average=True` are ResNet-D (He et al., 2019, 'Bag of Tricks', sec. 4.2); with `pool="attention"` besides it is
CLIP's (Radford et al., 2021, sec. 2.4), `variant="clip-50"` and its like.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from jaxtyping import Array, Bool, Float, Shaped

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.norm import Norm
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import zero_where_not


def _averaged(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B h w C"]:
    """Means of squares; what is left over at the far edges is left out."""
    height, width = (n // size * size for n in x.shape[1:3])
    return reduce(x[:, :height, :width], "b (h p) (w q) c -> b h w c", "mean", p=size, q=size)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the last norm starts at zero (Goyal et al., 2017, sec. 5.1)."""

    width: int
    stride: int
    norm: str
    dtype: Dtype
    average: bool = False  # strides by average pooling

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], present: Bool[Array, " B"], *, train: bool) -> Float[Array, "B h w D"]:
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(Norm, self.norm, self.dtype)
        y = nn.relu(norm(name="norm_1")(conv(self.width, (1, 1), name="conv_1")(x), present, train=train))
        stride = 1 if self.average else self.stride
        y = conv(self.width, (3, 3), strides=stride, padding=1, name="conv_2")(y)
        y = nn.relu(norm(name="norm_2")(y, present, train=train))
        if self.average and self.stride > 1:
            y, x = (_averaged(z, self.stride) for z in (y, x))
        y = norm(zero_scale=True, name="norm_3")(conv(4 * self.width, (1, 1), name="conv_3")(y), present, train=train)
        if x.shape != y.shape:
            x = conv(4 * self.width, (1, 1), strides=stride, name="conv_shortcut")(x)
            x = norm(name="norm_shortcut")(x, present, train=train)
        return nn.relu(x + y)


class MeanAsks(nn.Module):
    """The tokens' mean attends to itself and them, all at learned places, and a last layer gives `out` numbers."""

    heads: int
    out: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B out"]:
        width = x.shape[-1]
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        positions = self.param("positions", nn.initializers.normal(width**-0.5), (1, *x.shape[1:]), jnp.float32)
        x = x + positions.astype(x.dtype)
        query, key, value = (
            rearrange(nn.Dense(width, dtype=self.dtype, name=name)(z), "b n (h d) -> b n h d", h=self.heads)
            for name, z in (("query", x[:, :1]), ("key", x), ("value", x))
        )
        y = jax.nn.dot_product_attention(query, key, value)
        return nn.Dense(self.out, dtype=self.dtype, name="out")(rearrange(y, "b 1 h d -> b (h d)"))


CLIP = {"norm": "batch", "stem": "deep", "average": True, "pool": "attention"}


class ResNet(nn.Module):
    """Images [B, H, W, C] to the last stage's positions as tokens, [B, N, 32 * width], and their mean.

    With pool="attention" the pooled vector is `out` wide, and images have the size of initialisation.
    """

    width: int = 64
    depths: Sequence[int] = (3, 4, 6, 3)  # ResNet-50
    norm: str = "group"  # or "batch"
    stem: str = "imagenet"  # or "small", "deep"
    dtype: Dtype = "float32"
    average: bool = False
    pool: str = "mean"  # or "attention"
    heads: int = 32  # of that
    out: int = 1024

    variants = {
        "50": {"norm": "batch"},
        "101": {"norm": "batch", "depths": (3, 4, 23, 3)},
        "152": {"norm": "batch", "depths": (3, 8, 36, 3)},
        "clip-50": CLIP,
        "clip-101": {**CLIP, "depths": (3, 4, 23, 3), "out": 512},
        "clip-50x4": {**CLIP, "width": 80, "depths": (4, 6, 10, 6), "heads": 40, "out": 640},
        "clip-50x16": {**CLIP, "width": 96, "depths": (6, 8, 18, 8), "heads": 48, "out": 768},
        "clip-50x64": {**CLIP, "width": 128, "depths": (3, 15, 36, 10), "heads": 64, "out": 1024},
    }

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        valid: Shaped[Array, "..."] | None = None,
        present: Bool[Array, " B"] | None = None,
        *,
        train: bool,
    ) -> Encoding:
        for key, known in {"norm": ("group", "batch"), "stem": ("imagenet", "small", "deep"), "pool": ("mean", "attention")}.items():
            if getattr(self, key) not in known:
                raise ConfigError(f"resnet: {key}={getattr(self, key)!r} is unknown ({', '.join(known)}).")
        present = jnp.ones(x.shape[0], bool) if present is None else present
        x = zero_where_not(present, x).astype(self.dtype)
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        if self.stem == "deep":
            for k, width in enumerate((self.width // 2, self.width // 2, self.width)):
                x = conv(width, (3, 3), strides=1 if k else 2, padding=1, name=f"stem_{k}")(x)
                x = nn.relu(Norm(self.norm, self.dtype, name=f"stem_norm_{k}")(x, present, train=train))
            x = _averaged(x, 2)
        else:
            small = self.stem == "small"
            size, stride, padding = ((3, 3), 1, 1) if small else ((7, 7), 2, 3)
            x = conv(self.width, size, strides=stride, padding=padding, name="stem")(x)
            x = nn.relu(Norm(self.norm, self.dtype, name="stem_norm")(x, present, train=train))
            if not small:
                x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType] (flax: a string, or this)
        stages = []
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                block = Bottleneck(self.width * 2**stage, stride, self.norm, self.dtype, self.average, name=f"stage_{stage}_block_{i:02d}")
                x = block(x, present, train=train)
            stages.append(rearrange(x, "b h w c -> b (h w) c"))
        tokens = stages[-1]
        pooled = MeanAsks(self.heads, self.out, self.dtype, name="pool")(tokens) if self.pool == "attention" else tokens.mean(axis=1)
        return Encoding(tokens, jnp.broadcast_to(present[:, None], tokens.shape[:2]), pooled, present, stages=tuple(stages))

    @classmethod
    def tiny(cls) -> tuple[ResNet, dict[str, np.ndarray]]:
        """A small instance with batch statistics, and a batch for it."""
        image = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
        return cls(width=4, depths=(1, 1), norm="batch", stem="small"), {"image": image}
