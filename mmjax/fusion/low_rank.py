"""Low-rank fusion (LMF, MLB, MFB, MFH): Liu et al., 2018; Kim et al., 2017; Yu et al., 2017 and 2018.

What `tensor` makes of the outer product of all modalities, with a weight tensor that is a sum of `rank` outer products of one
factor a modality and is never made: h = sum_r prod_m s(w_m^r [1; x_m]) + b. The weight of the 1 is the factor's bias.

    LMF  without s ('Efficient Low-rank Multimodal Fusion with Modality-Specific Factors', sec. 3.2-3.3); the published code
         weighs the ranks besides, which the factors can do themselves
    MLB  rank 1 and s = tanh ('Hadamard Product for Low-rank Bilinear Pooling', sec. 3)
    MFB  without s, and h has its signed square root taken and is scaled to length 1 before b is added ('Multi-modal Factorized
         Bilinear Pooling with Co-attention Learning for Visual Question Answering', sec. 3)
    MFH  `order` MFBs side by side; the products of each are multiplied by those of the one before ('Beyond Bilinear:
         Generalized Multimodal Factorized High-order Pooling for Visual Question Answering')

The last three were published for two modalities, and are here products over all. The linear layer that their papers put on top
is whatever reads the fused vector. Takes any number of modalities. Gaps: a learned bias stands in. Time: one vector a modality.
Cost: order * M dense layers to rank * width features, linear in M where `tensor` is exponential. For interactions at the price
of dense layers; `normalize` where products of many features, or of many modalities, get out of hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.fusion._power import power_normalised
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not

ACTIVATIONS = {"": lambda x: x, "tanh": nn.tanh, "relu": nn.relu}
MFB = {"width": 1000, "rank": 5, "normalize": True, "dropout": 0.1}


class LowRank(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, order * width]."""

    width: int = 256
    rank: int = 4  # k of MFB
    order: int = 1  # p of MFH
    activation: str = ""  # of every factor: "tanh", "relu" or none
    normalize: bool = False  # signed square root and length 1 of every block
    dropout: float = 0.0  # of the products, before their sum
    dtype: Dtype = "float32"

    variants = {"mlb": {"width": 1200, "rank": 1, "activation": "tanh"}, "mfb": MFB, "mfh": {**MFB, "order": 2}}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"fusion.activation={self.activation!r} is unknown.{nearest(self.activation, ACTIVATIONS)}")
        encodings = zero_absent(encodings)
        here = presence(encodings).any(axis=1)
        # Half of a factor's variance is its bias, or an absent modality would silence the others; the sum has variance 1.
        share = 0.5 * self.rank ** (-1 / len(encodings))
        init = nn.initializers
        kernel, bias = init.variance_scaling(share, "fan_in", "normal"), init.normal(share**0.5)
        factor = partial(nn.Dense, self.rank * self.width, dtype=self.dtype, kernel_init=kernel, bias_init=bias)
        product, blocks = jnp.ones((len(here), self.rank * self.width), self.dtype), []
        for i in range(self.order):
            for m, e in encodings.items():
                product = product * ACTIVATIONS[self.activation](factor(name=f"{m}_factor{i or ''}")(e.pooled))
            product = nn.Dropout(self.dropout, deterministic=not train)(product)
            block = product.reshape(-1, self.rank, self.width).sum(axis=1)
            blocks.append(power_normalised(block) if self.normalize else block)
        fused = jnp.concatenate(blocks, axis=1)
        fused = fused + self.param("bias", init.zeros, (1, fused.shape[1]), jnp.float32).astype(fused.dtype)
        return Encoding.from_pooled(zero_where_not(here, fused), here)

    @classmethod
    def tiny(cls) -> tuple[LowRank, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8, rank=2), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
