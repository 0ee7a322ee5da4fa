"""MISA: Hazarika et al., 2020, 'MISA: Modality-Invariant and -Specific Representations for Multimodal Sentiment Analysis', sec. 3.

Every modality's vector is projected and seen twice: through a shared encoder and through a private one. A transformer layer over
these 2M vectors, concatenation and a dense layer fuse them. `aux` has the losses that make them what they are called:

    similarity      central moment discrepancy up to order 5 between the shared vectors of modalities, the mean over pairs
    difference      squared products of private with shared features, and of modalities' private ones, over the batch
    reconstruction  of each projection from the sum of the two, the mean over modalities

as in the published code, but for the second: there a sum over the rows, and a mean over pairs of features, so that for n rows it is
(n / width)^2 times the squared norm of the mean product here, which does not grow with the batch. The first two compare the rows of
a batch that have what they are about: in training only, 0 in evaluation, and of each micro-batch where gradients are accumulated.
Their weights (published: 1, 0.3 and 1) are the objective `auxiliary`'s. Takes any number of modalities. Gaps: unseen by the
transformer, and zeros behind it. Time: one vector a modality. Cost: five dense layers of `width` a modality and attention among 2M
vectors. When modalities say partly the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Block, Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not

MOMENTS = 5


class Misa(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, M * width]."""

    width: int = 128
    heads: int = 2
    hidden: int = 2048  # of the transformer's MLP
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        def dense(name: str) -> nn.Dense:
            return nn.Dense(self.width, dtype=self.dtype, name=name)

        encodings, here = zero_absent(encodings), presence(encodings)
        shared_encoder, private, shared, missed = dense("shared"), [], [], []
        for m, e in encodings.items():
            x = nn.LayerNorm(1e-5, dtype=self.dtype, name=f"{m}_norm")(nn.relu(dense(f"{m}_in")(e.pooled)))
            private.append(nn.sigmoid(dense(f"{m}_private")(x)))
            shared.append(nn.sigmoid(shared_encoder(x)))
            missed.append(jnp.square((dense(f"{m}_reconstruction")(private[-1] + shared[-1]) - x).astype(jnp.float32)).mean(axis=1))

        both, valid = jnp.stack(private + shared, axis=1), jnp.concatenate([here, here], axis=1)
        block = Block(
            self.heads, self.hidden / self.width, False, self.dropout, self.dtype, "relu", 1e-5, post_norm=True, name="transformer"
        )
        x = zero_where_not(valid, block(both, valid, train=train))
        fused = nn.Dense(len(encodings) * self.width, dtype=self.dtype, name="out")(x.reshape(len(x), -1))
        fused = nn.relu(nn.Dropout(self.dropout, deterministic=not train)(fused))

        reconstruction = masked_mean(jnp.stack(missed, axis=1)[:, :, None], here)[:, 0]
        present, aux = here.any(axis=1), {"reconstruction": reconstruction}
        for name, loss in (("similarity", similarity(shared, here)), ("difference", difference(private, shared, here))):
            aux[name] = zero_where_not(present, jnp.broadcast_to(loss if train else 0 * loss, present.shape))
        return Encoding.from_pooled(zero_where_not(present, fused), present)._replace(aux=aux)

    @classmethod
    def tiny(cls) -> tuple[Misa, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=8, hidden=8), tiny_tokens(audio=(5, 6), text=(3, 4))


def similarity(shared: list[Float[Array, "B D"]], here: Bool[Array, "B M"]) -> Float[Array, ""]:
    """The distances of means and central moments of features, each over the rows that have the modality; 0 for one nobody has."""
    found = [_moments(x.astype(jnp.float32), here[:, i]) for i, x in enumerate(shared)]
    distances = []
    for i, j in combinations(range(len(found)), 2):
        square = jnp.square(found[i] - found[j]).sum(axis=1)
        distance = jnp.where(square > 1e-12, jnp.sqrt(jnp.maximum(square, 1e-12)), 0.0)  # the root has no slope at 0
        distances.append(jnp.where(here[:, i].any() & here[:, j].any(), distance.sum(), 0.0))
    return jnp.stack(distances).mean() if distances else jnp.zeros(())


def _moments(x: Float[Array, "B D"], here: Bool[Array, " B"]) -> Float[Array, "K D"]:
    mean = masked_mean(x[None], here[None])
    return jnp.concatenate([mean, *(masked_mean((x - mean)[None] ** k, here[None]) for k in range(2, MOMENTS + 1))])


def difference(private: list[Float[Array, "B D"]], shared: list[Float[Array, "B D"]], here: Bool[Array, "B M"]) -> Float[Array, ""]:
    """The sum over pairs, each over the rows that have both: features centred, and rows scaled to length 1, whose slope does not count."""
    pairs = [(private[i], shared[i], here[:, i]) for i in range(len(private))]
    pairs += [(private[i], private[j], here[:, i] & here[:, j]) for i, j in combinations(range(len(private)), 2)]
    loss = jnp.zeros(())
    for x, y, rows in pairs:
        a, b = (_directions(z.astype(jnp.float32), rows) for z in (x, y))
        loss += jnp.square(a.T @ b / jnp.maximum(rows.sum(), 1).astype(jnp.float32)).sum()
    return loss


def _directions(x: Float[Array, "B D"], here: Bool[Array, " B"]) -> Float[Array, "B D"]:
    x = zero_where_not(here, x - masked_mean(x[None], here[None]))
    return x / (jax.lax.stop_gradient(jnp.sqrt(jnp.square(x).sum(axis=1, keepdims=True))) + 1e-6)
