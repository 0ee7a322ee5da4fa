"""Gated fusion (GMU): Arevalo et al., 2017, 'Gated Multimodal Units for Information Fusion', sec. 3.1.

Each modality is squashed, and a gate that sees all of them decides, feature by feature, how much of it passes. The softmax of
two scores is the paper's z and 1 - z; with more modalities, or with some of them missing, the gates of those present still
add up to 1, where the paper has independent sigmoids (fig. 2a). Takes any number of modalities. Gaps: zeros stand
in before the gates, and behind them it is left out. Time: one vector a modality. Cost: two dense layers a modality, the gates'
from all features. A good default for pooled features with gaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent


class Gated(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]."""

    width: int = 256
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        encodings = zero_absent(encodings)
        here = presence(encodings)  # [B, M]
        dense = partial(nn.Dense, self.width, dtype=self.dtype)
        seen = jnp.concatenate([e.pooled for e in encodings.values()], axis=-1)
        hidden = jnp.stack([jnp.tanh(dense(name=f"{m}_hidden")(e.pooled)) for m, e in encodings.items()], axis=1)
        score = jnp.stack([dense(name=f"{m}_gate")(seen) for m in encodings], axis=1)  # [B, M, width]
        gate = jax.nn.softmax(score, axis=1, where=here[:, :, None])
        return Encoding.from_pooled((gate * hidden).sum(axis=1), here.any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[Gated, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
