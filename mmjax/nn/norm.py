"""Normalisation of features."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import zero_where_not


class Norm(nn.Module):
    """Batch, group or instance normalisation; what is not valid takes no part in the statistics.

    `valid` covers the leading axes of `x`: [B] where whole rows may be absent, [B, T] where steps may be. With "group"
    up to 32 groups of channels (Wu & He, 2018), with "instance" every channel is a group of its own (Ulyanov et al., 2016).
    What is not valid comes out as 0, except for absent rows under "group" and "instance", which are rows of their own.
    """

    kind: str
    dtype: Dtype
    zero_scale: bool = False
    epsilon: float = 1e-5
    affine: bool = True  # whether a scale and a bias are learned

    @nn.compact
    def __call__(self, x: Float[Array, "B ... C"], valid: Bool[Array, "B ..."], *, train: bool) -> Float[Array, "B ... C"]:
        scale = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        if self.kind == "batch":
            some = valid.any()  # a batch without anything valid has no statistics and leaves the running ones as they are
            momentum: Any = jnp.where(some, 0.9, 1.0)  # for flax a float, but it only multiplies by it
            norm = nn.BatchNorm(
                use_running_average=not train,
                momentum=momentum,
                epsilon=self.epsilon,
                dtype=self.dtype,
                use_scale=self.affine,
                use_bias=self.affine,
                scale_init=scale,
                name="batch",
            )
            return zero_where_not(valid, norm(x, mask=_over(x, valid | ~some)))
        channels = x.shape[-1]
        groups = channels if self.kind == "instance" else next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)
        norm = nn.GroupNorm(
            groups,
            epsilon=self.epsilon,
            dtype=self.dtype,
            use_scale=self.affine,
            use_bias=self.affine,
            scale_init=scale,
            name=self.kind,
        )
        if valid.ndim == 1:
            return norm(x)
        some = valid.any(axis=tuple(range(1, valid.ndim)), keepdims=True)
        return zero_where_not(valid, norm(x, mask=jnp.broadcast_to(_over(x, valid | ~some), x.shape)))


def _over(x: Float[Array, "B ... C"], valid: Bool[Array, "B ..."]) -> Bool[Array, "B ..."]:
    return valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim))
