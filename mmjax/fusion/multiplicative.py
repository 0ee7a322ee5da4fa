"""Multiplicative interactions: Jayakumar et al., 2020, 'Multiplicative Interactions and Where to Find Them', eq. 1.

One modality z makes the layer through which another passes: W(z) x + b(z), both linear in z, or z'Wx + z'U + Vx + b. W(z) is a
matrix (a hypernetwork), its diagonal (a gate) or one number (a scale), b(z) a vector or one number. The first modality by name
is x, and each further one a z for what came out before; W(0) starts as the identity, so that an absent z changes nothing at
first. Takes any number of modalities; one alone is only projected. Gaps: a learned bias stands in. Time: one vector a
modality. Cost a further modality: width^2 * D_m parameters for a matrix, 2 * width * D_m for a vector, 2 * D_m for a scalar.
For a context that says how to read the rest.
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
from mmjax.ops.masks import presence, zero_absent, zero_where_not

KINDS = ("matrix", "vector", "scalar")


class Multiplicative(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]; W(z) is a "matrix", a "vector" (its diagonal) or a "scalar" (`kind`)."""

    width: int = 64
    kind: str = "matrix"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.kind not in KINDS:
            raise ConfigError(f"fusion.kind={self.kind!r} is unknown.{nearest(self.kind, KINDS)}")
        here = presence(encodings).any(axis=1)
        (first, e), *further = zero_absent(encodings).items()
        x = zero_where_not(e.present, nn.Dense(self.width, dtype=self.dtype, name=f"{first}_in")(e.pooled))
        init, size = nn.initializers, 1 if self.kind == "scalar" else self.width
        for m, z in further:
            bias = nn.Dense(size, dtype=self.dtype, name=f"{m}_bias")(z.pooled)
            if self.kind == "matrix":
                small = init.variance_scaling(1 / self.width, "fan_in", "normal")
                identity = init.constant(np.eye(self.width).ravel())
                weight = nn.Dense(self.width**2, dtype=self.dtype, kernel_init=small, bias_init=identity, name=f"{m}_weight")(z.pooled)
                x = jnp.einsum("bi,bij->bj", x, weight.reshape(-1, self.width, self.width)) + bias
            else:
                x = nn.Dense(size, dtype=self.dtype, bias_init=init.ones, name=f"{m}_weight")(z.pooled) * x + bias
        return Encoding.from_pooled(zero_where_not(here, x), here)

    @classmethod
    def tiny(cls) -> tuple[Multiplicative, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
