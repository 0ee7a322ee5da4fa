"""Residual networks: He et al., 2016, 'Deep Residual Learning', bottleneck form with the stride in the 3x3 layer (v1.5).

`norm="batch"` is the paper's; `norm="group"` after Wu & He, 2018, has no statistics to carry and no batch to depend on.
`stem="small"` (a 3x3 convolution, no pooling) is the usual one for images of 32 to 64 pixels (He et al., 2016, sec. 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Shaped

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.norm import Norm
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import zero_where_not


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the last norm starts at zero (Goyal et al., 2017, sec. 5.1)."""

    width: int
    stride: int
    norm: str
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], present: Bool[Array, " B"], *, train: bool) -> Float[Array, "B h w D"]:
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(Norm, self.norm, self.dtype)
        y = nn.relu(norm(name="norm_1")(conv(self.width, (1, 1), name="conv_1")(x), present, train=train))
        y = conv(self.width, (3, 3), strides=self.stride, padding=1, name="conv_2")(y)
        y = nn.relu(norm(name="norm_2")(y, present, train=train))
        y = norm(zero_scale=True, name="norm_3")(conv(4 * self.width, (1, 1), name="conv_3")(y), present, train=train)
        if x.shape != y.shape:
            x = conv(4 * self.width, (1, 1), strides=self.stride, name="conv_shortcut")(x)
            x = norm(name="norm_shortcut")(x, present, train=train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Images [B, H, W, C] to the last stage's positions as tokens and their mean, [B, 32 * width]."""

    width: int = 64
    depths: Sequence[int] = (3, 4, 6, 3)  # ResNet-50
    norm: str = "group"  # or "batch"
    stem: str = "imagenet"  # or "small"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        valid: Shaped[Array, "..."] | None = None,
        present: Bool[Array, " B"] | None = None,
        *,
        train: bool,
    ) -> Encoding:
        for key, known in {"norm": ("group", "batch"), "stem": ("imagenet", "small")}.items():
            if getattr(self, key) not in known:
                raise ConfigError(f"resnet: {key}={getattr(self, key)!r} is unknown ({', '.join(known)}).")
        present = jnp.ones(x.shape[0], bool) if present is None else present
        x = zero_where_not(present, x).astype(self.dtype)
        small = self.stem == "small"
        x = nn.Conv(
            self.width,
            (3, 3) if small else (7, 7),
            strides=1 if small else 2,
            padding=1 if small else 3,
            use_bias=False,
            dtype=self.dtype,
            name="stem",
        )(x)
        x = nn.relu(Norm(self.norm, self.dtype, name="stem_norm")(x, present, train=train))
        if not small:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType] (flax: a string, or this)
        stages = []
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                block = Bottleneck(self.width * 2**stage, stride, self.norm, self.dtype, name=f"stage_{stage}_block_{i:02d}")
                x = block(x, present, train=train)
            stages.append(rearrange(x, "b h w c -> b (h w) c"))
        tokens = stages[-1]
        return Encoding(tokens, jnp.broadcast_to(present[:, None], tokens.shape[:2]), tokens.mean(axis=1), present, stages=tuple(stages))

    @classmethod
    def tiny(cls) -> tuple[ResNet, dict[str, np.ndarray]]:
        """A small instance with batch statistics, and a batch for it."""
        image = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
        return cls(width=4, depths=(1, 1), norm="batch", stem="small"), {"image": image}
