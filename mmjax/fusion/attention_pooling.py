"""Attention pooling: one learned query attends over the tokens of all modalities.

Pooling by multi-head attention after Lee et al., 2019, 'Set Transformer', sec. 3.2, in the form of Zhai et al., 2022, 'Scaling
Vision Transformers', sec. 3 (`AttentionPool`). The bias of a modality's projection is its embedding and tells its tokens from
the others'. Takes any number of modalities. Gaps: left out. Time: unaligned tokens. Cost: one dense layer a modality and one
transformer block, linear in the number of tokens. For tokens of which few matter; where modalities have one token each, it
weighs them by their content.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import concatenated, projected
from mmjax.nn.transformer import AttentionPool, Dtype
from mmjax.ops.masks import presence, zero_where_not


class AttentionPooling(nn.Module):
    """Tokens [B, N_m, D_m] to one vector [B, width], and to the tokens [B, sum of N_m, width] that it was pooled from."""

    width: int = 256
    heads: int = 4
    mlp_ratio: float = 4.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        here = presence(encodings).any(axis=1)
        tokens, valid = concatenated(projected(encodings, self.width, self.dtype).values())
        pooled = AttentionPool(self.heads, self.mlp_ratio, self.dtype, name="pool")(tokens, valid, train=train)
        return Encoding(tokens, valid, zero_where_not(here, pooled), here)

    @classmethod
    def tiny(cls) -> tuple[AttentionPooling, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8, heads=2, mlp_ratio=2), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
