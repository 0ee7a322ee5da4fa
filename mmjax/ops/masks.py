"""What is absent must not matter: the two or three operations that see to it."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped


def zero_where_not(keep: Bool[Array, "..."], x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`x` where `keep` holds and 0 elsewhere; `keep` covers the leading axes of `x`.

    A select, never a product: 0 * NaN is NaN, and so is the gradient through it.
    """
    return jnp.where(keep.reshape(keep.shape + (1,) * (x.ndim - keep.ndim)), x, jnp.zeros((), x.dtype))


def masked_mean(x: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """Mean over the valid positions of each row; 0 for a row that has none."""
    count = jnp.maximum(valid.sum(axis=1, keepdims=True), 1).astype(x.dtype)
    return zero_where_not(valid, x).sum(axis=1) / count


def unit(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """`x` scaled to length 1 along the last axis; a zero vector stays zero, with finite gradients."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jnp.where(square > 0, 1.0, 0.0).astype(x.dtype) / jnp.sqrt(jnp.maximum(square, 1e-12))
