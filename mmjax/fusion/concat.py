"""Concatenation: the pooled vectors side by side through one dense layer.

Feature-level ('early') fusion after Baltrušaitis et al., 2019, 'Multimodal Machine Learning', sec. 6.1. An absent modality
is a vector of zeros. Takes any number of modalities. Gaps: zeros stand in. Time: one vector a modality. Cost: one dense
layer. What every other method is to be compared with.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent


class Concat(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]."""

    width: int = 256
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        encodings = zero_absent(encodings)
        x = jnp.concatenate([e.pooled for e in encodings.values()], axis=-1)
        fused = nn.Dense(self.width, dtype=self.dtype, name="out")(x)
        return Encoding.from_pooled(fused, presence(encodings).any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[Concat, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
