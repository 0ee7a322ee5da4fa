"""Stacked attention (SAN): Yang et al., 2016, 'Stacked Attention Networks for Image Question Answering', sec. 3.3.

The main modality's pooled vector asks: it attends over the tokens of the others, what it finds is added to it, and the sum asks
again, `depth` times, so that later layers look closer at what earlier ones took for relevant. One head, additive attention, one
softmax over all others' tokens, each of which has first been mapped to the query's space by a dense layer and tanh (sec. 3.1). The
bias of the logits (b_P), which softmax ignores, is left out. The query, too, is mapped to `width`, which the paper's has already.

Without the main modality the map's bias asks. Takes any number of modalities. Gaps: left out; a learned query stands in for the
main modality. Time: unaligned tokens. Cost: N x width x hidden a layer. For a question about a picture or a sound that takes more
than one look to answer; light, next to transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import concatenated, main_of
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not


class StackedAttention(nn.Module):
    """The query after the last look, [B, width]. `hidden` is k of the paper, where the attention's layers meet."""

    main: str | None = None  # who asks; the first by name
    width: int = 256
    depth: int = 2
    hidden: int = 256
    dropout: float = 0.0  # of the attention's hidden layer
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.depth < 1:
            raise ConfigError(f"stacked_attention: depth={self.depth} should be at least 1, or nothing but the main modality is seen.")
        main, present = main_of(self.main, encodings), presence(encodings).any(axis=1)
        others = zero_absent(encodings)
        dense = partial(nn.Dense, dtype=self.dtype)
        bias = nn.initializers.normal(0.02)  # tells rows that cannot ask from nothing
        query = dense(self.width, bias_init=bias, name=f"{main}_in")(others.pop(main).pooled)
        if others:
            parts = ((jnp.tanh(dense(self.width, name=f"{m}_in")(e.tokens)), e.valid) for m, e in others.items())
            tokens, valid = concatenated(parts)
            for i in range(self.depth):
                seen = dense(self.hidden, use_bias=False, name=f"tokens_{i}")(tokens)
                hidden = jnp.tanh(seen + dense(self.hidden, name=f"query_{i}")(query)[:, None])  # h_A
                hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
                score = dense(1, use_bias=False, name=f"score_{i}")(hidden)[..., 0]
                attention = jax.nn.softmax(score, axis=1, where=valid)  # p_I
                query = query + zero_where_not(valid.any(axis=1), jnp.einsum("bn,bnd->bd", attention, tokens))  # u
        return Encoding.from_pooled(zero_where_not(present, query), present)

    @classmethod
    def tiny(cls) -> tuple[StackedAttention, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(main="text", width=8, hidden=6), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
