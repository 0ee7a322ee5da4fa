"""Normalisation of features."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import zero_where_not


class Norm(nn.Module):
    """Batch or group normalisation; rows that are absent take no part in the batch's statistics."""

    kind: str
    dtype: Dtype
    zero_scale: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B ... C"], present: Bool[Array, " B"], *, train: bool) -> Float[Array, "B ... C"]:
        scale = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        if self.kind == "batch":
            some = present.any()  # a batch without one present row has no statistics and leaves the running ones as they are
            momentum: Any = jnp.where(some, 0.9, 1.0)  # for flax a float, but it only multiplies by it
            norm = nn.BatchNorm(
                use_running_average=not train,
                momentum=momentum,
                epsilon=self.epsilon,
                dtype=self.dtype,
                scale_init=scale,
                name="batch",
            )
            return zero_where_not(present, norm(x, mask=(present | ~some).reshape(-1, *(1,) * (x.ndim - 1))))
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if x.shape[-1] % g == 0)
        return nn.GroupNorm(groups, epsilon=self.epsilon, dtype=self.dtype, scale_init=scale, name="group")(x)
