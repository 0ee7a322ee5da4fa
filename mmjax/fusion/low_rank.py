"""Low-rank tensor fusion (LMF): Liu et al., 2018, 'Efficient Low-rank Multimodal Fusion with Modality-Specific Factors', sec. 3.

What `tensor` makes of the outer product of all modalities, with a weight tensor that is a sum of `rank` outer products of one
factor a modality (sec. 3.2): h = sum_r prod_m (w_m^r [1; x_m]) + b, without ever making the tensor (sec. 3.3). The weight of
the 1 is the factor's bias. Takes any number of modalities. Cost: one dense layer of rank * width features a modality, linear
in their number where `tensor` is exponential. The published code weighs the ranks besides, which the factors can do themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not


class LowRank(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]."""

    width: int = 256
    rank: int = 4
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        encodings = zero_absent(encodings)
        here = presence(encodings).any(axis=1)
        # Half of a factor's variance is its bias, or an absent modality would silence the others; the sum has variance 1.
        share = 0.5 * self.rank ** (-1 / len(encodings))
        init = nn.initializers
        kernel, bias = init.variance_scaling(share, "fan_in", "normal"), init.normal(share**0.5)
        factor = partial(nn.Dense, self.rank * self.width, dtype=self.dtype, kernel_init=kernel, bias_init=bias)
        product = jnp.ones((len(here), self.rank * self.width), self.dtype)
        for m, e in encodings.items():
            product = product * factor(name=f"{m}_factor")(e.pooled)
        fused = product.reshape(-1, self.rank, self.width).sum(axis=1)
        fused = fused + self.param("bias", init.zeros, (1, self.width), jnp.float32).astype(fused.dtype)
        return Encoding.from_pooled(zero_where_not(here, fused), here)

    @classmethod
    def tiny(cls) -> tuple[LowRank, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8, rank=2), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
