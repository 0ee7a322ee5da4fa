"""Deep sets: Zaheer et al., 2017, 'Deep Sets', sec. 2.2, theorem 2.

rho(sum over elements of phi(x)): every function of a set that does not look at its order has this form. The elements are the valid
tokens of all modalities. phi begins with a dense layer a modality, whose bias says which one a token is of, and is the same for
all from there on. A mean (the default) or a maximum, as in the paper's experiments, can stand for the sum of the theorem, which
counts, but grows with the number of tokens. Takes any number of modalities. Gaps: left out. Time: unaligned tokens, and their order
is not seen. Cost: two dense layers a token. For tokens that are a set, such as points, tags, objects; attention's cheap baseline.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import concatenated, projected
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_max, masked_mean, presence, zero_where_not

POOLS = {"sum": lambda x, valid: zero_where_not(valid, x).sum(axis=1), "mean": masked_mean, "max": masked_max}


class DeepSets(nn.Module):
    """Tokens are phi of each, pooled [B, width] is rho of their `pool`: "sum", "mean" or "max"."""

    width: int = 256
    pool: str = "mean"
    dropout: float = 0.0
    dtype: Dtype = "float32"

    variants = {"sum": {"pool": "sum"}, "max": {"pool": "max"}}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.pool not in POOLS:
            raise ConfigError(f"fusion.pool={self.pool!r} is unknown.{nearest(self.pool, POOLS)}")
        x, valid = concatenated(projected(encodings, self.width, self.dtype).values())
        phi = nn.Dense(self.width, dtype=self.dtype, name="phi")(nn.relu(x))
        y = nn.relu(nn.Dense(self.width, dtype=self.dtype, name="rho_hidden")(POOLS[self.pool](phi, valid)))
        y = nn.Dense(self.width, dtype=self.dtype, name="rho")(nn.Dropout(self.dropout, deterministic=not train)(y))
        here = presence(encodings).any(axis=1)
        return Encoding(phi, valid, zero_where_not(here, y), here)

    @classmethod
    def tiny(cls) -> tuple[DeepSets, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
