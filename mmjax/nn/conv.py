"""Convolution over time, with weight normalisation."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.nn.transformer import Dtype


class TimeConv(nn.Module):
    """Convolution over the time of [B, T, C], its kernel [size, C / groups, width].

    `padding` is how many zeros stand before and behind. With `weight_norm` the kernel is scale * v / ||v|| (Salimans &
    Kingma, 2016, eq. 2), with one scale along that axis of it: 2 for each output channel, 0 for each place in the window.
    """

    width: int
    size: int
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1
    groups: int = 1
    weight_norm: int | None = None
    dtype: Dtype = "float32"
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B t D"]:
        shape = (self.size, x.shape[-1] // self.groups, self.width)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        if self.weight_norm is not None:
            others = tuple(axis for axis in range(3) if axis != self.weight_norm)
            length = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=others, keepdims=True))
            scale = self.param("scale", lambda key: jax.lax.stop_gradient(length))
            kernel = scale * kernel / length
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride,),
            padding=(self.padding,),
            rhs_dilation=(self.dilation,),
            dimension_numbers=("NTC", "TIO", "NTC"),
            feature_group_count=self.groups,
        )
        return y + bias.astype(self.dtype)[None, None]
