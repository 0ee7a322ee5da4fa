"""A text as the mean of vectors of its words and their parts: Bojanowski et al., 2017, 'Enriching Word Vectors with Subword Information'.

A word's parts are the runs of `sizes` tokens in it, its boundaries among them (sec. 3.2: "<where>" has "<wh", "whe", ...,
"re>"), and the word itself; a hash says which of the `buckets` each one's vector is. Knows nothing of the order of words,
and something of words that it never saw. For byte tokens; takes seconds to learn where a transformer takes minutes.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from mmjax.contract import Encoding
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masks_of, zero_where_not

OFFSET, PRIME = np.uint32(2_166_136_261), np.uint32(16_777_619)  # FNV-1a, 32 bits
BEGIN, END, SPACE = 1, 2, 223  # of the byte tokenizer


def subwords(x: Int[Array, "B L"], valid: Bool[Array, "B L"], sizes: Sequence[int]) -> tuple[UInt32[Array, "B L N"], Bool[Array, "B L N"]]:
    """Hashes of the subwords that begin at each position, one of every size and the whole word, and which of them there are."""
    boundary = ~valid | (x == BEGIN) | (x == END) | (x == SPACE)
    x = jnp.where(boundary, 0, x).astype(jnp.uint32)
    length = x.shape[1]
    hashes, there = [], []
    for size in sizes:
        pad = ((0, 0), (0, size))
        ahead, edge = jnp.pad(x, pad), jnp.pad(boundary, pad, constant_values=True)
        h = jnp.full(x.shape, OFFSET ^ np.uint32(size))
        for i in range(size):
            h = (h ^ ahead[:, i : i + length]) * PRIME
        inside = jnp.stack([edge[:, i : i + length] for i in range(1, size - 1)]).any(axis=0)
        both = boundary & edge[:, size - 1 : size - 1 + length]  # a whole word, and that has a hash of its own
        hashes.append(h)
        there.append(~inside & ~both)

    def further(h: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        token, edge = at
        h = jnp.where(edge, OFFSET, (h ^ token) * PRIME)
        return h, h

    _, words = jax.lax.scan(further, jnp.full(x.shape[0], OFFSET), (x.T, boundary.T), reverse=True)
    before = jnp.pad(boundary, ((0, 0), (1, 0)), constant_values=True)[:, :length]
    return jnp.stack([*hashes, words.T], axis=2), jnp.stack([*there, ~boundary & before], axis=2)


class SubwordVectors(nn.Module):
    """Byte ids [B, L] to the mean of all subwords' vectors, [B, width]; a token is the mean of those that begin there."""

    width: int = 1024
    buckets: int = 8_192
    sizes: Sequence[int] = (3, 4, 5)
    dropout: float = 0.0  # of whole subwords
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Int[Array, "B L"], valid: Bool[Array, "B L"] | None = None, present: Bool[Array, " B"] | None = None, *, train: bool
    ) -> Encoding:
        valid, present = masks_of(x, valid, present)
        hashes, there = subwords(zero_where_not(valid, x), valid, self.sizes)
        ids = (hashes % np.uint32(self.buckets)).astype(jnp.int32)
        table = nn.Embed(
            self.buckets, self.width, dtype=self.dtype, embedding_init=nn.initializers.normal(self.width**-0.5), name="embedding"
        )
        weight = nn.Dropout(self.dropout, deterministic=not train)(there.astype(self.dtype))
        sums = jnp.einsum("blnd,bln->bld", table(ids), weight)
        count = there.sum(axis=2).astype(self.dtype)
        tokens = sums / jnp.maximum(count, 1)[:, :, None]
        pooled = self._sum(table, ids, weight) / jnp.maximum(count.sum(axis=1), 1)[:, None]
        return Encoding(tokens, valid, pooled, present)

    def _sum(self, table: nn.Embed, ids: Int[Array, "B L N"], weight: Float[Array, "B L N"]) -> Float[Array, "B D"]:
        """All vectors of a row, as a product of how often each is in it with the table, or one by one where that is less to hold."""
        ids, weight = (x.reshape(len(x), -1) for x in (ids, weight))
        if self.buckets > ids.shape[1] * self.width:
            return jnp.einsum("bkd,bk->bd", table(ids), weight)
        often = jax.vmap(lambda ids, weight: jnp.zeros(self.buckets, weight.dtype).at[ids].add(weight))(ids, weight)
        return often @ table.embedding.astype(self.dtype)

    @classmethod
    def tiny(cls) -> tuple[SubwordVectors, dict[str, np.ndarray]]:
        """A small instance and a batch of ragged lengths for it."""
        x = np.random.default_rng(0).integers(3, 9, (4, 9), dtype=np.int32)
        x[:, 0], x[0, 4], x[3, 3] = BEGIN, SPACE, SPACE
        valid = np.arange(9) < np.array([9, 5, 3, 7])[:, None]
        return cls(width=16, buckets=4), {"text": x, "text/valid": valid}
