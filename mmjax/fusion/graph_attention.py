"""Graph attention fusion (GAT): Velickovic et al., 2018, 'Graph Attention Networks', eq. 1-6, over modalities or their tokens.

A node is a modality's pooled vector, or each of its tokens. In every layer a node attends to its neighbours and itself, by scores
that are a sum of one for each end of the edge; heads are concatenated (eq. 5), and averaged in the last layer (eq. 6), which has
no activation. Layers are residual, as in sec. 3.3. Edges are between all nodes, `between` modalities or `within` them; one kind for
all layers, or one a layer, as in `edges=("within", "between")`. What nodes have become is averaged. Vertices for sets of modalities
are in `dynamic_fusion_graph`. Takes any number of modalities. Gaps: left out. Time: one vector a modality, or unaligned tokens.
Cost: nodes^2 sums a head and layer, without products of queries and keys. For several modalities that are to hear of each other
before they are pooled; `early_transformer` where there are data enough for dot-product attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import concatenated, projected
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_where_not

NODES, EDGES = ("modalities", "tokens"), ("all", "between", "within")


class GraphAttentionLayer(nn.Module):
    """Heads side by side, each of width / heads features, or with `mean` their mean, each of `width` features. Residual."""

    heads: int
    mean: bool
    dropout: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], edge: Bool[Array, "B N N"], *, train: bool) -> Float[Array, "B N D"]:
        """`edge[b, i, j]`: whether node i attends to node j."""
        rows, n, width = x.shape
        if width % self.heads:
            raise ConfigError(f"A width of {width} does not split into {self.heads} heads.")
        drop, each = nn.Dropout(self.dropout, deterministic=not train), width if self.mean else width // self.heads
        init = nn.initializers.glorot_uniform()
        seen = nn.Dense(self.heads * each, use_bias=False, kernel_init=init, dtype=self.dtype, name="in")(drop(x))
        seen = seen.reshape(rows, n, self.heads, each)
        of_target, of_source = (self.param(name, init, (self.heads, each), jnp.float32).astype(self.dtype) for name in ("target", "source"))
        target, source = (jnp.einsum("bnhd,hd->bhn", seen, a) for a in (of_target, of_source))
        score = nn.leaky_relu(target[:, :, :, None] + source[:, :, None, :], 0.2)
        attention = drop(jax.nn.softmax(score, axis=3, where=edge[:, None]))
        gathered = jnp.einsum("bhij,bjhd->bihd", attention, seen)
        gathered = gathered.mean(axis=2) if self.mean else gathered.reshape(x.shape)
        bias = self.param("bias", nn.initializers.zeros, (1, 1, width), jnp.float32).astype(self.dtype)
        return gathered + x + bias if self.mean else nn.elu(gathered + x + bias)


class GraphAttention(nn.Module):
    """Tokens are the nodes, and pooled is their mean."""

    width: int = 256
    depth: int = 2
    heads: int = 4
    nodes: str = "modalities"  # or "tokens"
    edges: str | Sequence[str] = "all"  # or "between", "within", or one of them a layer
    dropout: float = 0.0  # of what a layer is given, and of its attention
    dtype: Dtype = "float32"

    variants = {"modalities": {}, "tokens": {"nodes": "tokens"}, "within_between": {"nodes": "tokens", "edges": ("within", "between")}}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        kinds = (self.edges,) * self.depth if isinstance(self.edges, str) else tuple(self.edges)
        for field, value, known in (("nodes", self.nodes, NODES), *(("edges", kind, EDGES) for kind in kinds)):
            if value not in known:
                raise ConfigError(f"fusion.{field}={value!r} is unknown.{nearest(value, known)}")
        if len(kinds) != self.depth:
            raise ConfigError(f"fusion.edges={list(kinds)} has {len(kinds)} entries for depth={self.depth} layers.")
        if self.nodes == "modalities":  # a modality is one token
            encodings = {m: Encoding.from_pooled(e.pooled, e.present) for m, e in encodings.items()}
        parts = projected(encodings, self.width, self.dtype)
        x, valid = concatenated(parts.values())
        group = np.repeat(np.arange(len(parts)), [part.shape[1] for part, _ in parts.values()])
        same, self_loop = group[:, None] == group, np.eye(len(group), dtype=bool)
        allowed = {"all": np.ones_like(same), "between": ~same | self_loop, "within": same}
        for i, kind in enumerate(kinds):
            edge = jnp.asarray(allowed[kind])[None] & valid[:, None, :]
            layer = GraphAttentionLayer(self.heads, i == self.depth - 1, self.dropout, self.dtype, name=f"layer_{i:02d}")
            x = layer(x, edge, train=train)
        return Encoding(zero_where_not(valid, x), valid, masked_mean(x, valid), presence(encodings).any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[GraphAttention, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8, heads=2), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
