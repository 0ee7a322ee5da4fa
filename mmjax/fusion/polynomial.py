"""Polynomial tensor pooling (PTP, HPFN): Hou et al., 2019, 'Deep Multimodal Multilinear Fusion with High-order Polynomial Pooling'.

The vectors of all modalities, and a 1, as one: f = [1; x_1; x_2; ...]. Its P-fold outer product with itself holds every product of
up to P features, within and across modalities; the weight tensor over it is a sum of `rank` outer products of P vectors, so that
neither is made (their CP form): h = sum_r prod_p w_p^r f. The weight of the 1 is a bias.

    hpfn   two levels of it: the tokens of each modality in `windows` runs of equal length, averaged, are pooled window by
           window across modalities, with the same weights; what the windows give is the f of a second pooling, over time

Windows do not overlap here, so modalities need no common rate, and the paper's tensor trains are left out. Takes any number of
modalities. Gaps: zeros stand in. Time: one vector a modality, or with windows tokens in order that span the same time. Cost: P dense
layers from all features to rank * width, for each window. For interactions of features within a modality too, where `low_rank` has
those across only.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_parts, presence, zero_absent, zero_where_not


class Pooling(nn.Module):
    """The last axis, with a 1, to `width` features of degree `order`."""

    width: int
    rank: int
    order: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
        # Half of a factor's variance is its bias, or features that are small would silence all others; the sum has variance 1.
        share, init = 0.5 * self.rank ** (-1 / self.order), nn.initializers
        kernel, bias = init.variance_scaling(share, "fan_in", "normal"), init.normal(share**0.5)
        product = jnp.ones((*x.shape[:-1], self.rank * self.width), self.dtype)
        for p in range(self.order):
            product *= nn.Dense(self.rank * self.width, dtype=self.dtype, kernel_init=kernel, bias_init=bias, name=f"factor_{p}")(x)
        return product.reshape(*x.shape[:-1], self.rank, self.width).sum(axis=-2)


class Polynomial(nn.Module):
    """Pooled vectors [B, D_m], or with more `windows` than one tokens [B, N_m, D_m], to one vector of [B, width]."""

    width: int = 128
    rank: int = 4
    order: int = 3  # P
    windows: int = 1
    dtype: Dtype = "float32"

    variants = {"hpfn": {"windows": 4}}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.order < 1 or self.windows < 1:
            raise ConfigError(f"polynomial: order={self.order} and windows={self.windows} should be at least 1.")
        encodings = zero_absent(encodings)
        here = presence(encodings).any(axis=1)
        if self.windows == 1:
            x = jnp.concatenate([e.pooled for e in encodings.values()], axis=1)
        else:
            parts = [masked_parts(e.tokens, e.valid, self.windows) for e in encodings.values()]
            local = jnp.concatenate([part.reshape(len(here), self.windows, -1) for part in parts], axis=2)
            x = Pooling(self.width, self.rank, self.order, self.dtype, name="local")(local).reshape(len(here), -1)
        x = Pooling(self.width, self.rank, self.order, self.dtype, name="pooling")(x)
        return Encoding.from_pooled(zero_where_not(here, x), here)

    @classmethod
    def tiny(cls) -> tuple[Polynomial, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=6, rank=2, order=2, windows=2), tiny_tokens(audio=(5, 6), text=(4, 4))
