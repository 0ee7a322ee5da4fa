"""Which tokens of one sequence stand where those of another do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def shares(
    valid: Bool[Array, "B N"],
    other_valid: Bool[Array, "B M"],
    time: Float[Array, "B N"] | None = None,
    other_time: Float[Array, "B M"] | None = None,
) -> Float[Array, "B N M"]:
    """What each token has of another sequence's tokens: the mean of those that are nearest to it, or the one nearest to it.

    Tokens stand at their time where both sequences have one, and else at their place among the valid ones, from 0 to 1: sequences
    of equal length are then aligned one to one. Each of the others goes to the token nearest to it, as frames do to a word; a
    token to which none goes takes the one nearest to itself. Rows add up to 1, or to 0 where either has nothing valid.
    """
    if time is None or other_time is None:
        time, other_time = (_places(x) for x in (valid, other_valid))
    apart = jnp.abs(time[:, :, None] - other_time[:, None, :])
    both = valid[:, :, None] & other_valid[:, None, :]
    apart = jnp.where(both, apart, jnp.inf)
    n, m = valid.shape[1], other_valid.shape[1]
    theirs = jax.nn.one_hot(jnp.argmin(apart, axis=1), n, axis=1, dtype=bool) & both
    own = jax.nn.one_hot(jnp.argmin(apart, axis=2), m, dtype=bool) & both
    taken = jnp.where(theirs.any(axis=2, keepdims=True), theirs, own)
    return taken.astype(jnp.float32) / jnp.maximum(taken.sum(axis=2, keepdims=True), 1).astype(jnp.float32)


def _places(valid: Bool[Array, "B N"]) -> Float[Array, "B N"]:
    count = jnp.maximum(valid.sum(axis=1, keepdims=True), 1).astype(jnp.float32)
    return (jnp.cumsum(valid, axis=1).astype(jnp.float32) - 0.5) / count
