"""Mean, sum or maximum of the modalities, feature by feature.

As views are pooled in Su et al., 2015, 'Multi-view Convolutional Neural Networks', sec. 3.2 (maximum), and sets in Zaheer et
al., 2017, 'Deep Sets', theorem 2 (sum). Takes any number of modalities. Gaps: left out. Time: one vector a modality. Cost:
one dense layer a modality. The mean keeps its scale when modalities are missing and is the one to begin with; the maximum
takes the modality that is surest of a feature.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not

KINDS = ("mean", "sum", "max")


class Pooling(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]: the mean, sum or max (`kind`) of their projections."""

    width: int = 256
    kind: str = "mean"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.kind not in KINDS:
            raise ConfigError(f"fusion.kind={self.kind!r} is unknown.{nearest(self.kind, KINDS)}")
        encodings = zero_absent(encodings)
        here = presence(encodings)  # [B, M]
        x = jnp.stack([nn.Dense(self.width, dtype=self.dtype, name=f"{m}_in")(e.pooled) for m, e in encodings.items()], axis=1)
        if self.kind == "mean":
            fused = masked_mean(x, here)
        elif self.kind == "sum":
            fused = zero_where_not(here, x).sum(axis=1)
        else:
            fused = zero_where_not(here.any(axis=1), jnp.max(x, axis=1, where=here[:, :, None], initial=-jnp.inf))
        return Encoding.from_pooled(fused, here.any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[Pooling, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
