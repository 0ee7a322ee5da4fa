"""Parallel co-attention: Lu et al., 2016, 'Hierarchical Question-Image Co-Attention for Visual Question Answering', eq. 3-5.

For every pair of modalities an affinity of each token with each; through it the attention over one modality's tokens
is guided by all tokens of the other. The attended vectors are added and squashed, as at one level of eq. 7. With more
than two modalities each is guided by the sum over the others. Takes any number of modalities. Gaps: left out. Time:
unaligned tokens. Cost: N_m x N_n x D a pair. Light, and without transformers' appetite for data: when few tokens
matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent


class CoAttention(nn.Module):
    """`hidden` is k of eq. 4. Without biases, as in the paper, what is 0 stays 0: no mask but the softmax's is needed."""

    width: int = 256
    hidden: int = 256
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        def dense(width, name):
            return nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)

        parts = {m: (e.tokens.astype(self.dtype), e.valid) for m, e in zero_absent(encodings).items()}
        own = {m: dense(self.hidden, f"{m}_hidden")(x) for m, (x, _) in parts.items()}  # W_v V and W_q Q
        hidden = dict(own)
        for m, n in combinations(parts, 2):
            x, y = parts[m][0], parts[n][0]
            affinity = jnp.tanh(jnp.einsum("bid,bjd->bij", x, dense(x.shape[-1], f"{m}_{n}_affinity")(y)))  # eq. 3
            hidden[m] += jnp.einsum("bij,bjk->bik", affinity, own[n])
            hidden[n] += jnp.einsum("bij,bik->bjk", affinity, own[m])

        attended = []
        for m, (x, valid) in parts.items():
            score = dense(1, f"{m}_score")(jnp.tanh(hidden[m]))[..., 0]  # eq. 4
            attention = jax.nn.softmax(score, axis=1, where=valid)
            attended.append(dense(self.width, f"{m}_out")(jnp.einsum("bi,bid->bd", attention, x)))  # eq. 5
        fused = jnp.tanh(jnp.stack(attended).sum(axis=0))
        return Encoding.from_pooled(fused, presence(encodings).any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[CoAttention, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8, hidden=6), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
