"""How bilinear fusions tame their products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.ops.masks import unit

LINEAR = 1e-5  # below it the root is a line: its slope, infinite at 0, would make rounding errors of what cancels to 0 count


def power_normalised(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """The signed square root of every feature, and then length 1 along the last axis; zeros stay zeros, with finite gradients.

    Perronnin et al., 2010, 'Improving the Fisher Kernel for Large-Scale Image Classification', sec. 3.1-3.2.
    """
    z = x.astype(jnp.float32)
    return unit(z * jax.lax.rsqrt(jnp.maximum(jnp.abs(z), LINEAR))).astype(x.dtype)
