"""Dense layers whose products are of 8-bit floating point: Micikevicius et al., 2022, 'FP8 Formats for Deep Learning'.

Inputs and kernels are rounded to E4M3 (4 bits of exponent, 3 of fraction), gradients to E5M2 (sec. 3), each divided by what brings its
largest magnitude to the largest of the format (sec. 4); products add up in float32. Decided otherwise than by flax's own operations,
whose scales follow the magnitudes of the steps before, and come back in place of gradients: the magnitude is that of the array itself,
so a layer has no state, and nothing changes for the optimizer, micro-batches or checkpoints. It costs a pass over each array. To how
many digits a row is rounded depends, as there, on the largest number of the batch, be it of an absent row's zeros and biases.

For chips with 8-bit products (H100, MI300, TPU v7), published at twice bfloat16's rate; on others it is slower, and only shows what
accuracy is lost.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FORWARD, BACKWARD = jnp.float8_e4m3fn, jnp.float8_e5m2


def rounded(x: Float[Array, "*shape"], dtype: Any) -> tuple[Float[Array, "*shape"], Float[Array, ""]]:
    """In a format of 8 bits, and what to multiply it by."""
    largest = float(jnp.finfo(dtype).max)
    most = jnp.abs(x).max().astype(jnp.float32)
    scale = jnp.where(most > 0, most / largest, 1.0)
    x = x.astype(jnp.float32) / scale.reshape((1,) * x.ndim)
    return jnp.clip(x, -largest, largest).astype(dtype), scale


def dot_general(lhs: Array, rhs: Array, dimension_numbers: Any, precision: Any = None, **kwargs: Any) -> Array:
    """`jax.lax.dot_general` as `nn.Dense` calls it, [..., D] with [D, F], in 8 bits."""
    if dimension_numbers != (((lhs.ndim - 1,), (0,)), ((), ())):
        raise NotImplementedError(f"fp8: a product over {dimension_numbers}")
    return _product(lhs, rhs)


@jax.custom_vjp
def _product(x: Float[Array, "*rows D"], kernel: Float[Array, "D F"]) -> Float[Array, "*rows F"]:
    return _forward(x, kernel)[0]


def _forward(x, kernel):
    x8, kernel8 = rounded(x, FORWARD), rounded(kernel, FORWARD)
    like = jnp.zeros((0,), x.dtype), jnp.zeros((0,), kernel.dtype)
    return _scaled(x8, kernel8, (x.ndim - 1,), (0,)).astype(x.dtype), (x8, kernel8, like)


def _backward(kept, gradient):
    x8, kernel8, like = kept
    gradient8, rows = rounded(gradient, BACKWARD), tuple(range(gradient.ndim - 1))
    of_x = _scaled(gradient8, kernel8, (gradient.ndim - 1,), (1,))
    return of_x.astype(like[0].dtype), _scaled(x8, gradient8, rows, rows).astype(like[1].dtype)


def _scaled(a, b, over_a, over_b):
    product = jax.lax.dot_general(a[0], b[0], ((over_a, over_b), ((), ())), preferred_element_type=jnp.float32)
    return product * (a[1] * b[1]).reshape((1,) * product.ndim)


_product.defvjp(_forward, _backward)
