"""Streams that exchange between layers: cross-stitch units (Misra et al., 2016) and MMTM (Joze et al., 2020).

A transformer for each modality, and behind each of its blocks a unit through which the streams see each other:

    cross_stitch  every stream becomes a mix of all of them at the same place, with a weight for each pair and channel ('Cross-stitch
                  Networks for Multi-task Learning', eq. 1), which starts as 0.9 for itself and 0.1 for all others together
    mmtm          means over each stream's tokens meet in one small layer, and from it each stream's channels are scaled by a factor
                  from 0 to 2 ('MMTM: Multimodal Transfer Module for CNN Fusion', sec. 3, with the relu of the published code,
                  which has no factor 2): squeeze and excitation, for which nothing has to be aligned

Both were published for convolutional streams, cross-stitch for tasks on one image. The small layer has half a stream's width, which
is the paper's quarter of two. Streams end in a mean of their tokens, and these are averaged. Takes any number of modalities. Gaps:
left out. Time: cross_stitch mixes the tokens nearest to each other, by time where both have one and else by place; mmtm has
unaligned tokens. Cost: one transformer a modality, hardly more for the units. For modalities that each need a network of their own
and should still correct each other early on; mmtm where they have no places in common.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import concatenated, projected, stage_time
from mmjax.nn.transformer import Block, Dtype
from mmjax.ops.masks import masked_mean, presence, zero_where_not
from mmjax.ops.places import shares

UNITS = ("cross_stitch", "mmtm")
Streams = dict[str, Float[Array, "B _ D"]]


class StreamExchange(nn.Module):
    """Tokens are all streams'. With `stage` they enter as they left that block of their encoders, as in `bottleneck`."""

    unit: str = "cross_stitch"
    width: int = 256
    depth: int = 4
    stage: int | None = None
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    variants = {unit: {"unit": unit} for unit in UNITS}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.unit not in UNITS:
            raise ConfigError(f"fusion.unit={self.unit!r} is unknown.{nearest(self.unit, UNITS)}")
        present = presence(encodings)
        parts = projected(encodings, self.width, self.dtype, self.stage)
        streams, valid = ({m: part[i] for m, part in parts.items()} for i in range(2))
        share = {}
        if self.unit == "cross_stitch":
            time = {m: stage_time(encodings[m], self.stage) for m in streams}
            time = {m: None if t is None else zero_where_not(valid[m], t) for m, t in time.items()}
            pairs = ((m, n) for m in streams for n in streams if m != n)
            share = {(m, n): shares(valid[m], valid[n], time[m], time[n]).astype(self.dtype) for m, n in pairs}
        for i in range(self.depth):
            block = {m: Block(self.heads, self.mlp_ratio, False, self.dropout, self.dtype, name=f"{m}_block_{i:02d}") for m in streams}
            streams = {m: block[m](x, valid[m], train=train) for m, x in streams.items()}
            streams = self._excited(streams, valid, i) if self.unit == "mmtm" else self._stitched(streams, share, i)

        norm = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm")
        streams = {m: norm(x) for m, x in streams.items()}
        means = jnp.stack([masked_mean(x, valid[m]) for m, x in streams.items()], axis=1)
        tokens = concatenated((x, valid[m]) for m, x in streams.items())
        return Encoding(*tokens, masked_mean(means, present), present.any(axis=1))

    def _stitched(self, streams: Streams, share: Mapping[tuple[str, str], Float[Array, "B _ _"]], i: int) -> Streams:
        """A cross-stitch unit."""

        def weight(n, m):
            start = nn.initializers.constant(0.9 if m == n else 0.1 / (len(streams) - 1))  # alone, 0.9 is taken back by the last norm
            return self.param(f"{n}_to_{m}_{i:02d}", start, (1, 1, self.width), jnp.float32).astype(self.dtype)

        mixed = {m: weight(m, m) * x for m, x in streams.items()}
        for (m, n), taken in share.items():
            mixed[m] = mixed[m] + weight(n, m) * jnp.einsum("bnk,bkd->bnd", taken, streams[n])
        return mixed

    def _excited(self, streams: Streams, valid: Mapping[str, Bool[Array, "B _"]], i: int) -> Streams:
        """An MMTM; each modality brings its own share of the small layer's bias."""

        def dense(width, name):
            return nn.Dense(width, dtype=self.dtype, name=f"{name}_{i:02d}")

        small = max(self.width // 2, 1)
        squeezed = {m: dense(small, f"{m}_squeeze")(masked_mean(x, valid[m])) for m, x in streams.items()}
        joint = nn.relu(sum(zero_where_not(valid[m].any(axis=1), x) for m, x in squeezed.items()))
        return {m: 2 * nn.sigmoid(dense(self.width, f"{m}_excite")(joint))[:, None] * x for m, x in streams.items()}

    @classmethod
    def tiny(cls) -> tuple[StreamExchange, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=8, depth=1, stage=-1, heads=2), tiny_tokens(audio=(5, 6), text=(3, 4))
