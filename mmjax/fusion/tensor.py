"""Tensor fusion (TFN): Zadeh et al., 2017, 'Tensor Fusion Network for Multimodal Sentiment Analysis', sec. 4.2.

The outer product of all modalities, each with a 1 appended, holds every product of features of one, two or more of them; a
dense layer reads it. What is absent is 0 beside its 1 and leaves the products of the others. Takes any number of modalities. Gaps:
zeros stand in. Time: one vector a modality. Cost: the tensor has (inner + 1)^M entries and its layer `width` times as many
parameters: with inner=16, 289 for two modalities, 4,913 for three, 83,521 for four. For two or three whose interaction is the
point; `low_rank` does it without the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not


class Tensor(nn.Module):
    """Pooled vectors [B, D_m], each first projected to `inner` features, to one of [B, width].

    Raises `ConfigError` for a tensor of more than `largest` entries.
    """

    width: int = 256
    inner: int = 16
    largest: int = 100_000
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        entries = (self.inner + 1) ** len(encodings)
        if entries > self.largest:
            raise ConfigError(
                f"fusion: the outer product of {len(encodings)} modalities with inner={self.inner} has {entries:,} entries, "
                f"more than largest={self.largest:,}. Choose a smaller inner, or name='low_rank', which never makes the tensor."
            )
        encodings = zero_absent(encodings)
        here = presence(encodings).any(axis=1)
        product = jnp.ones((len(here), 1), self.dtype)
        for m, e in encodings.items():
            x = zero_where_not(e.present, nn.Dense(self.inner, dtype=self.dtype, name=f"{m}_in")(e.pooled))
            x = jnp.pad(x, ((0, 0), (1, 0)), constant_values=1)
            product = jnp.einsum("bi,bj->bij", product, x).reshape(len(here), -1)
        fused = nn.Dense(self.width, dtype=self.dtype, name="out")(product)
        return Encoding.from_pooled(zero_where_not(here, fused), here)

    @classmethod
    def tiny(cls) -> tuple[Tensor, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8, inner=3), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
