"""Convolutions over a log-mel spectrogram: Kong et al., 2020, 'PANNs: Large-Scale Pretrained Audio Neural Networks', sec. II and table I.

The default is a small relative of theirs that strides where they pool, quick on a CPU; `variant="cnn14"` is their own.
Give it log-mel as it comes: batch statistics of every mel bin scale the input.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import reduce
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.norm import Norm
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_max, masked_mean, masked_parts, masks_of, token_times, valid_strides, zero_where_not


def average_pool(x: Float[Array, "B T F C"], valid: Bool[Array, "B T"], stride: int) -> Float[Array, "B t f C"]:
    """Means over what is valid in windows of `stride` by `stride`; `x` is 0 elsewhere, and incomplete windows count."""
    real = jnp.broadcast_to(valid[:, :, None, None], (*x.shape[:3], 1)).astype(x.dtype)

    def sums(x):
        x = jnp.pad(x, ((0, 0), *((0, -n % stride) for n in x.shape[1:3]), (0, 0)))
        return reduce(x, "b (t s) (f r) c -> b t f c", "sum", s=stride, r=stride)

    return sums(x) / jnp.maximum(sums(real), 1)


class Block(nn.Module):
    """Convolutions, each with a norm and ReLU; the first has the stride, or the last is averaged over it (`pool`)."""

    width: int
    stride: int
    kernel: int
    convs: int
    pool: bool
    norm: str
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T F C"], valid: Bool[Array, "B T"], *, train: bool
    ) -> tuple[Float[Array, "B t f D"], Bool[Array, "B t"]]:
        shorter = valid_strides(valid, self.stride)
        for i in range(self.convs):
            stride = self.stride if i == 0 and not self.pool else 1
            size = (self.kernel, self.kernel)
            x = nn.Conv(self.width, size, stride, padding=self.kernel // 2, use_bias=False, dtype=self.dtype, name=f"conv_{i}")(x)
            # The norm leaves 0 where nothing is valid, which is what the next convolution sees beyond the end of a row.
            x = nn.relu(Norm(self.norm, self.dtype, name=f"norm_{i}")(x, valid if self.pool else shorter, train=train))
        return average_pool(x, valid, self.stride) if self.pool else x, shorter


class AudioCnn(nn.Module):
    """Log-mel [B, T, F] to a token for every `prod(strides)` frames, the mean over frequencies, and a pooled vector [B, width].

    A token is valid if one of the frames that it stands for is. Where T is no multiple of the strides the last token
    stands for fewer frames; PANNs leave those out.
    """

    blocks: Sequence[Sequence[int]] = ((16, 2), (32, 2), (64, 2), (128, 2), (256, 2))  # width, stride over time and frequency
    kernel: int = 3
    convs: int = 2  # a block
    pool: bool = False  # average over the stride behind a block, as PANNs do, instead of striding in it: three times as slow
    norm: str = "batch"  # or "group"
    parts: int = 1  # 1 pools the maximum plus the mean, which forgets all order; more: means of so many parts, side by side
    dropout: float = 0.0  # behind every block and of the pooled vector
    rate: float | None = None  # frames a second: with it the tokens have times
    dtype: Dtype = "float32"

    variants = {
        "cnn6": {"blocks": ((64, 2), (128, 2), (256, 2), (512, 2)), "kernel": 5, "convs": 1, "pool": True},
        "cnn10": {"blocks": ((64, 2), (128, 2), (256, 2), (512, 2)), "pool": True},
        "cnn14": {"blocks": ((64, 2), (128, 2), (256, 2), (512, 2), (1024, 2), (2048, 1)), "pool": True},
    }

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T F"], valid: Bool[Array, "B T"] | None = None, present: Bool[Array, " B"] | None = None, *, train: bool
    ) -> Encoding:
        if self.norm not in ("batch", "group"):
            raise ConfigError(f"audio_cnn: norm={self.norm!r} is unknown (batch, group).")
        if self.kernel % 2 == 0:
            raise ConfigError(f"audio_cnn: kernel={self.kernel} should be odd, so that a window has a middle.")
        valid, present = masks_of(x, valid, present)
        x = zero_where_not(valid, x).astype(self.dtype)
        x = Norm(self.norm, self.dtype, name="input_norm")(x, valid, train=train)[..., None]
        drop = nn.Dropout(self.dropout, deterministic=not train)
        stages = []
        for i, (width, stride) in enumerate(self.blocks):
            block = Block(width, stride, self.kernel, self.convs, self.pool, self.norm, self.dtype, name=f"block_{i}")
            x, valid = block(x, valid, train=train)
            x = drop(x)
            stages.append(x.mean(axis=2))
        tokens = stages[-1]
        pooled = masked_max(tokens, valid) + masked_mean(tokens, valid) if self.parts == 1 else masked_parts(tokens, valid, self.parts)
        pooled = nn.relu(nn.Dense(tokens.shape[-1], dtype=self.dtype, name="out")(pooled))
        stride = int(np.prod([stride for _, stride in self.blocks]))
        return Encoding(tokens, valid, pooled, present, token_times(valid, stride, self.rate), tuple(stages))

    @classmethod
    def tiny(cls) -> tuple[AudioCnn, dict[str, np.ndarray]]:
        """A small instance with batch statistics, and a batch of ragged lengths for it."""
        rng = np.random.default_rng(0)
        valid = np.arange(13) < np.array([13, 6, 3, 9])[:, None]
        return cls(blocks=((4, 2), (8, 2)), rate=100.0), {"audio": rng.normal(size=(4, 13, 6)).astype(np.float32), "audio/valid": valid}
