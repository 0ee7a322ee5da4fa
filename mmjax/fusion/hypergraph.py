"""Hypergraph fusion (HGNN): Feng et al., 2019, 'Hypergraph Neural Networks', eq. 10-11.

Nodes are all tokens. A hyperedge joins the tokens of a modality, and another one all tokens, of whatever modality, of a window of
time; the hyperedges of Chen et al., 2023, 'Multivariate, Multi-Frequency and Multimodal: Rethinking Graph Neural Networks for
Emotion Recognition in Conversation', with a window in place of an utterance. A layer maps the nodes, lets every
hyperedge gather the mean of its nodes, and every node the weighted mean of its hyperedges, both normalised by the nodes' degrees.
A hyperedge's weight is learned: one a modality, and one for all windows. Takes any number of modalities. Gaps: left out. Time:
windows by the tokens' times, and evenly in their order where there are none. Cost: nodes x (modalities + windows) a layer, linear in
the length. For many tokens of which those of a moment, and those of a modality, belong together; every layer is an average, so few.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.alignment import clock
from mmjax.nn.tokens import concatenated, projected
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not


def hypergraph_mean(x: Float[Array, "B N D"], incidence: Float[Array, "B N E"], weight: Float[Array, " E"]) -> Float[Array, "B N D"]:
    """D_v^-1/2 H W D_e^-1 H' D_v^-1/2 x; a node of no hyperedge is 0, and a hyperedge without nodes has no part."""
    degree = jnp.einsum("bne,e->bn", incidence, weight)[:, :, None]
    scale = jnp.where(degree > 0, jax.lax.rsqrt(jnp.where(degree > 0, degree, 1)), 0)
    size = jnp.maximum(incidence.sum(axis=1), 1)
    gathered = jnp.einsum("bne,bnd->bed", incidence, scale * x) * (weight[None] / size)[:, :, None]
    return scale * jnp.einsum("bne,bed->bnd", incidence, gathered)


class Hypergraph(nn.Module):
    """Tokens are the nodes, and pooled is their mean."""

    width: int = 256
    depth: int = 2
    windows: int = 8
    dropout: float = 0.0  # between layers
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        encodings = zero_absent(encodings)
        parts = projected(encodings, self.width, self.dtype)
        x, valid = concatenated(parts.values())
        times = clock(encodings)
        at = jnp.concatenate(list(times.time.values()), axis=1)
        group = np.repeat(np.arange(len(parts)), [part.shape[1] for part, _ in parts.values()])
        window = jnp.minimum(jnp.floor(at * self.windows + 1e-4), self.windows - 1).astype(jnp.int32)  # what begins one is in it
        of_modality = jnp.broadcast_to(jax.nn.one_hot(group, len(parts))[None], (*valid.shape, len(parts)))
        incidence = zero_where_not(valid, jnp.concatenate([of_modality, jax.nn.one_hot(window, self.windows)], axis=2))

        log_weight = self.param("modality_log_weight", nn.initializers.zeros, (len(parts),), jnp.float32)
        log_weight_window = self.param("window_log_weight", nn.initializers.zeros, (1,), jnp.float32)
        weight = jnp.exp(jnp.concatenate([log_weight, jnp.broadcast_to(log_weight_window, (self.windows,))]))
        incidence, weight = incidence.astype(self.dtype), weight.astype(self.dtype)
        for i in range(self.depth):
            x = nn.Dropout(self.dropout, deterministic=not train)(x) if i else x
            x = nn.relu(hypergraph_mean(nn.Dense(self.width, dtype=self.dtype, name=f"layer_{i:02d}")(x), incidence, weight))
        return Encoding(x, valid, masked_mean(x, valid), presence(encodings).any(axis=1), times.seconds(at))

    @classmethod
    def tiny(cls) -> tuple[Hypergraph, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8, windows=3), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
