"""Temporal convolutional network: Bai et al., 2018, 'An Empirical Evaluation of Generic Convolutional and Recurrent Networks', sec. 3.

Residual blocks of two dilated convolutions, the dilation twice as large in each: a token sees
1 + 2 * (kernel - 1) * (2^depth - 1) steps. Quick, for series in which a few hundred steps say what there is to say.
"""

from __future__ import annotations

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.nn.conv import TimeConv
from mmjax.nn.norm import Norm
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_last, masked_mean, masked_parts, masks_of, token_times, valid_strides, zero_where_not

NORMS = ("weight", "group", "none")


class Block(nn.Module):
    """Two dilated convolutions, each with ReLU and dropout of whole channels, and a ReLU on the sum with the input (fig. 1b)."""

    width: int
    kernel: int
    dilation: int
    causal: bool
    norm: str
    dropout: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"], valid: Bool[Array, "B T"], *, train: bool) -> Float[Array, "B T D"]:
        reach = (self.kernel - 1) * self.dilation
        padding = (reach, 0) if self.causal else (reach // 2, reach - reach // 2)
        weight_norm = 2 if self.norm == "weight" else None
        y = x
        for i in range(2):
            conv = TimeConv(self.width, self.kernel, padding, self.dilation, weight_norm=weight_norm, dtype=self.dtype, name=f"conv_{i}")
            y = conv(zero_where_not(valid, y))
            if self.norm == "group":
                y = Norm("group", self.dtype, name=f"norm_{i}")(y, valid, train=train)
            y = nn.relu(y)
            y = nn.Dropout(self.dropout, broadcast_dims=(1,), deterministic=not train)(y)
        if x.shape[-1] != self.width:
            x = nn.Dense(self.width, dtype=self.dtype, name="shortcut")(x)
        return nn.relu(x + y)


class Tcn(nn.Module):
    """Series [B, T, C] to a token every `stride` steps, valid where one of them is, and a pooled vector [B, width].

    The paper normalises weights and has no stride. Groups of channels (`norm="group"`) see steps to come, so not if `causal`.
    """

    width: int = 64
    depth: int = 6
    kernel: int = 3
    causal: bool = True  # a token sees no later step
    norm: str = "weight"  # or "group", "none"
    stride: int = 1  # with more, a convolution of that stride comes first
    pool: str | int = "mean"  # or "end", the last valid token, which sees as far back as any; or 4: means of four parts, side by side
    dropout: float = 0.0
    rate: float | None = None  # steps a second: with it the tokens have times
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T C"], valid: Bool[Array, "B T"] | None = None, present: Bool[Array, " B"] | None = None, *, train: bool
    ) -> Encoding:
        if self.pool not in ("mean", "end") and not (isinstance(self.pool, int) and self.pool > 0):
            raise ConfigError(f"tcn: pool={self.pool!r} is unknown (mean, end, or a number of parts).")
        if self.norm not in NORMS:
            raise ConfigError(f"tcn: norm={self.norm!r} is unknown.{nearest(str(self.norm), NORMS)}")
        if self.causal and self.norm == "group":
            raise ConfigError('tcn: norm="group" sees what is to come: take norm="weight", or causal=False.')
        valid, present = masks_of(x, valid, present)
        x = zero_where_not(valid, x).astype(self.dtype)
        if self.stride > 1:
            padding = (self.kernel - 1, 0) if self.causal else ((self.kernel - 1) // 2, self.kernel // 2)
            x = nn.relu(TimeConv(self.width, self.kernel, padding, stride=self.stride, dtype=self.dtype, name="stem")(x))
            valid = valid_strides(valid, self.stride)
        stages = []
        for i in range(self.depth):
            block = Block(self.width, self.kernel, 2**i, self.causal, self.norm, self.dropout, self.dtype, name=f"block_{i:02d}")
            x = block(x, valid, train=train)
            stages.append(x)
        if isinstance(self.pool, int):
            pooled = nn.Dense(self.width, dtype=self.dtype, name="out")(masked_parts(x, valid, self.pool))
        else:
            pooled = masked_mean(x, valid) if self.pool == "mean" else masked_last(x, valid)
        return Encoding(x, valid, pooled, present, token_times(valid, self.stride, self.rate, 1), tuple(stages))

    @classmethod
    def tiny(cls) -> tuple[Tcn, dict[str, np.ndarray]]:
        """A small instance that looks both ways, and a batch of ragged lengths for it."""
        rng = np.random.default_rng(0)
        valid = np.arange(9) < np.array([9, 5, 2, 7])[:, None]
        series = rng.normal(size=(4, 9, 3)).astype(np.float32)
        return cls(width=8, depth=2, causal=False, dropout=0.1, rate=50.0), {"series": series, "series/valid": valid}
