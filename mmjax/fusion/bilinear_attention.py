"""Bilinear attention (BAN): Kim et al., 2018, 'Bilinear Attention Networks', sec. 3.

Attention over all pairs of tokens of two modalities, A_ij = softmax over i and j of p'(relu(U x_i) * relu(V y_j)), one p a
glimpse. A glimpse adds P sum_ij A_ij (relu(U' x_i) * relu(V' y_j)) to every x_i, and the next one sees it (residual learning of
attention); x is the modality later by name: of `image` and `text` the text, as in the paper. The result is the mean of the x_i,
and, beyond the paper, of the y_j, so that a row with one modality says what it has; more than two are taken by pairs. Takes any
number of modalities. Gaps: left out. Time: unaligned tokens. Cost a pair: 2 + 3 * glimpses dense layers and N * M * width
products a glimpse. For regions and words.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import combinations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import projected
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_where_not


class Glimpses(nn.Module):
    """What glimpses at the pairs of x and y add to every x: [B, D], 0 where there is no pair."""

    glimpses: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], y: Float[Array, "B M D"], pairs: Bool[Array, "B N M"]) -> Float[Array, "B D"]:
        dense = partial(nn.Dense, x.shape[2], dtype=self.dtype)
        p = self.param("p", nn.initializers.lecun_normal(in_axis=1, out_axis=0), (self.glimpses, x.shape[2]), jnp.float32)
        u, v = nn.relu(dense(name="u")(x)), nn.relu(dense(name="v")(y))
        logits = jnp.einsum("gd,bnd,bmd->bgnm", p.astype(u.dtype), u, v)
        attention = jax.nn.softmax(logits, axis=(2, 3), where=pairs[:, None])
        added = jnp.zeros_like(x[:, 0])
        for g in range(self.glimpses):
            u, v = nn.relu(dense(name=f"u_{g}")(x + added[:, None])), nn.relu(dense(name=f"v_{g}")(y))
            joint = dense(name=f"p_{g}")(jnp.einsum("bnm,bnd,bmd->bd", attention[:, g], u, v))
            added = added + zero_where_not(pairs.any(axis=(1, 2)), joint)
        return added


class BilinearAttention(nn.Module):
    """Tokens [B, N_m, D_m], each first projected to `width`, to one vector [B, width]."""

    width: int = 256
    glimpses: int = 2
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        parts = projected(encodings, self.width, self.dtype)
        here = presence(encodings).any(axis=1)
        fused = jnp.zeros((len(here), self.width), self.dtype)
        for tokens, valid in parts.values():
            fused = fused + masked_mean(tokens, valid)
        for a, b in combinations(parts, 2):
            (y, y_valid), (x, x_valid) = parts[a], parts[b]
            pairs = x_valid[:, :, None] & y_valid[:, None, :]
            fused = fused + Glimpses(self.glimpses, self.dtype, name=f"{b}_{a}")(x, y, pairs)
        return Encoding.from_pooled(fused, here)

    @classmethod
    def tiny(cls) -> tuple[BilinearAttention, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
