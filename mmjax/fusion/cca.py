"""Canonical correlation layer: Hotelling, 1936; Kettenring, 1971 (MAXVAR); Rastogi et al., 2015, 'Multiview LSA', sec. 2.

Every modality's vector is projected on the directions in which modalities agree most, and the projections, each an estimate of the
same `width` variates of variance 1, are averaged. The directions are the leading eigenvectors of the modalities' whitened
cross-covariances, of two modalities their canonical directions; covariances are running averages over the batches of training, of two
modalities over the rows that have both, as are the means. Nothing here is trained, and gradients pass through the projections to the
encoders as if directions were constants. Deep CCA (Andrew et al., 2013) is this layer with the objective `cca`, which makes the
encoders agree; there is no loss here. While encoders change fast, so do directions: it is for frozen or aligned ones, and large
batches. Takes any number of modalities; one alone is whitened. Gaps: the mean of those that are there. Time: one vector a modality.
Cost: the third power of the sum of widths, a batch, not an example. For a fused vector of what modalities share and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not


class Cca(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]; `ridge` is added to variances, relative to their mean."""

    width: int = 32
    ridge: float = 0.1
    momentum: float = 0.99
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        encodings = zero_absent(encodings)
        sizes = [e.pooled.shape[1] for e in encodings.values()]
        if not 1 <= self.width <= sum(sizes) or self.ridge <= 0:
            raise ConfigError(f"cca: width={self.width} should be 1 to {sum(sizes)}, the features of all, and ridge={self.ridge} above 0.")
        x = jnp.concatenate([e.pooled.astype(jnp.float32) for e in encodings.values()], axis=1)
        here = presence(encodings)
        there = jnp.repeat(here, np.array(sizes), axis=1, total_repeat_length=sum(sizes))
        mean = self.variable("batch_stats", "mean", jnp.zeros, sum(sizes))
        covariance = self.variable("batch_stats", "covariance", _expected, sizes)
        if train and not self.is_initializing():
            new_mean, new, rows, pairs = moments(jax.lax.stop_gradient(x), there)
            mean.value = jnp.where(rows > 0, self.momentum * mean.value + (1 - self.momentum) * new_mean, mean.value)
            kept = self.momentum * covariance.value + (1 - self.momentum) * new
            covariance.value = jnp.where(pairs > 0, kept, covariance.value)
        weight = directions(covariance.value, sizes, self.width, self.ridge)
        centred, split = zero_where_not(there, x - mean.value[None]), np.cumsum(sizes)[:-1]
        parts = zip(jnp.split(centred, split, axis=1), jnp.split(weight, split), strict=True)
        fused = masked_mean(jnp.stack([part @ w for part, w in parts], axis=1), here).astype(self.dtype)
        return Encoding.from_pooled(fused, here.any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[Cca, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=3), tiny_tokens(audio=(5, 6), text=(3, 4))


def _expected(sizes: list[int]) -> Float[Array, "D D"]:
    """Before anything is known: variances of 1, and the modalities' first features correlate, the next ones less, and so on."""
    place = np.concatenate([np.arange(size) for size in sizes])
    same = place[:, None] == place[None]
    return jnp.asarray(np.where(np.eye(sum(sizes)), 1.0, same * 0.5 / (1 + place[:, None])), jnp.float32)


def moments(x: Float[Array, "B D"], there: Bool[Array, "B D"]) -> tuple[Array, Array, Array, Array]:
    """Means and covariances over the rows that have the features in question, and how many rows those are."""
    n = there.astype(jnp.float32)
    rows, pairs = n.sum(axis=0), n.T @ n
    mean = zero_where_not(there, x).sum(axis=0) / jnp.maximum(rows, 1)
    centred = zero_where_not(there, x - mean[None])
    return mean, centred.T @ centred / jnp.maximum(pairs, 1), rows, pairs


def directions(covariance: Float[Array, "D D"], sizes: list[int], width: int, ridge: float) -> Float[Array, "D K"]:
    """The modalities' projections, one below the other; of each component the largest entry is positive."""
    ends = np.cumsum(sizes).tolist()
    inverse = jnp.zeros_like(covariance)  # of the Cholesky factors, a block a modality
    for start, end in zip([0, *ends], ends, strict=False):
        block = covariance[start:end, start:end]
        own = block + ridge * jnp.maximum(jnp.trace(block) / (end - start), 1e-6) * jnp.eye(end - start)
        factor = jnp.linalg.cholesky(own)
        inverse = inverse.at[start:end, start:end].set(jax.scipy.linalg.solve_triangular(factor, jnp.eye(end - start), lower=True))
    modality = np.repeat(np.arange(len(sizes)), sizes)
    across = jnp.where(modality[:, None] != modality[None], covariance, 0.0)
    _, vectors = jnp.linalg.eigh(inverse @ across @ inverse.T)
    leading = vectors[:, ::-1][:, :width] * len(sizes) ** 0.5
    largest = jnp.take_along_axis(leading, jnp.abs(leading).argmax(axis=0)[None], axis=0)
    return jax.lax.stop_gradient(inverse.T @ (leading * jnp.sign(largest)))
