"""Polynomial tensor pooling (PTP, HPFN): Hou et al., 2019, 'Deep Multimodal Multilinear Fusion with High-order Polynomial Pooling'.

The vectors of all modalities, and a 1, as one: f = [1; x_1; x_2; ...]. Its P-fold outer product with itself holds every product of
up to P features, within and across modalities, and is symmetric; so is the weight tensor over it, a sum of `rank` P-fold outer
products, and neither is made (sec. 3, in CP form): h = sum_r a_r (w_r f)^P + b. The weight of the 1 is a bias; a_r is one number for
all features, as in the published code. `normalize` takes the signed square root of each rank's powers, and scales them to length 1.

    hpfn   two levels of it: the tokens of each modality in `windows` runs of equal length, averaged, are pooled window by window
           across modalities, with weights of their own; what the windows give is the f of a second pooling, over time

The published code has a run's tokens side by side, which have to be as many in every modality; windows that overlap, and tensor
trains in the place of the sum, are left out. Takes any number of modalities. Gaps: zeros stand in. Time: one vector a modality;
windows ask for tokens that span the same time. Cost: a dense layer from all features to rank * width, for each window, whatever the
order. For interactions of features within a modality too, where `low_rank` has those across only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._power import power_normalised
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_parts, presence, zero_absent, zero_where_not


class Pooling(nn.Module):
    """Windows [B, W, D], each with a 1, to `width` features of degree `order`, with weights of their own."""

    width: int
    rank: int
    order: int
    normalize: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B W D"]) -> Float[Array, "B W E"]:
        windows, features = x.shape[1:]
        # Half of a factor's variance is its bias, or features that are small would silence all others; the sum has variance 1.
        sizes = {
            "factor": ((windows, features, self.rank, self.width), (0.5 / features) ** 0.5),
            "factor_bias": ((1, windows, self.rank, self.width), 0.5**0.5),
            "weight": ((windows, self.rank), (self.rank * prod(range(1, 2 * self.order, 2))) ** -0.5),
            "bias": ((1, windows, self.width), 0.0),
        }
        p = {name: self.param(name, nn.initializers.normal(s), size, jnp.float32).astype(self.dtype) for name, (size, s) in sizes.items()}
        power = (jnp.einsum("bwd,wdre->bwre", x.astype(self.dtype), p["factor"]) + p["factor_bias"]) ** self.order
        power = power_normalised(power) if self.normalize else power
        return jnp.einsum("bwre,wr->bwe", power, p["weight"]) + p["bias"]


class Polynomial(nn.Module):
    """Pooled vectors [B, D_m], or with more `windows` than one tokens [B, N_m, D_m], to one vector of [B, width]."""

    width: int = 128
    rank: int = 4
    order: int = 3  # P
    windows: int = 1
    normalize: bool = False
    dtype: Dtype = "float32"

    variants = {"hpfn": {"windows": 4}}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.order < 1 or self.windows < 1:
            raise ConfigError(f"polynomial: order={self.order} and windows={self.windows} should be at least 1.")
        encodings = zero_absent(encodings)
        here = presence(encodings).any(axis=1)
        pooling = partial(Pooling, self.width, self.rank, self.order, self.normalize, self.dtype)
        if self.windows == 1:
            x = jnp.concatenate([e.pooled for e in encodings.values()], axis=1)
        else:
            parts = [masked_parts(e.tokens, e.valid, self.windows) for e in encodings.values()]
            local = jnp.concatenate([part.reshape(len(here), self.windows, -1) for part in parts], axis=2)
            x = pooling(name="local")(local).reshape(len(here), -1)
        x = pooling(name="pooling")(x[:, None])[:, 0]
        return Encoding.from_pooled(zero_where_not(here, x), here)

    @classmethod
    def tiny(cls) -> tuple[Polynomial, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=6, rank=2, order=2, windows=2), tiny_tokens(audio=(5, 6), text=(4, 4))
