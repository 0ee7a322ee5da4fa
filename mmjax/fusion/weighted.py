"""Weighted sum: one learned weight a modality, the same for all examples.

A softmax over the modalities as over layers in Peters et al., 2018, 'Deep contextualized word representations', eq. 1; here
over those that are present, so that the weights of every row add up to 1. Takes any number of modalities. Gaps: left out.
Time: one vector a modality. Cost: one dense layer a modality and one number. Says which modality a task needs; `gated`
decides that for each example.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent


class Weighted(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]."""

    width: int = 256
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        encodings = zero_absent(encodings)
        here = presence(encodings)  # [B, M]
        x = jnp.stack([nn.Dense(self.width, dtype=self.dtype, name=f"{m}_in")(e.pooled) for m, e in encodings.items()], axis=1)
        logits = self.param("logits", nn.initializers.zeros, (len(encodings),), jnp.float32)
        weight = jax.nn.softmax(jnp.broadcast_to(logits, here.shape), axis=1, where=here)
        fused = jnp.einsum("bm,bmd->bd", weight.astype(x.dtype), x)
        return Encoding.from_pooled(fused, here.any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[Weighted, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
