"""Standardisation, for streams of every kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.ops.masks import zero_where_not


def normalise() -> Normalise:
    """Each channel to mean 0 and standard deviation 1 over the valid positions of the training examples.

    The channels are the last axis, [B, ..., C]; a waveform [B, S] has one. A channel that never changes becomes 0.
    """
    return Normalise()


class Normalise:
    """See `normalise`."""

    def fit(self, examples: Iterable[tuple[Array, Any, Array]]) -> dict[str, Float[Array, " C"]]:
        """Mean and standard deviation, in one pass: those of batches are merged as Chan et al., 1979, eq. 2.1, do."""
        total = None
        for x, valid, present in examples:
            part = _moments(x, valid, present)
            total = part if total is None else _merged(total, part)
        assert total is not None, "there is an example"
        count, mean, square = total
        return {"mean": mean, "std": jnp.sqrt(square / count)}

    def __call__(self, x: Array, valid: Any, present: Array, key: Any, fitted: dict[str, Array]) -> tuple[Array, Any]:
        """`x` standardised, `valid` as it is."""
        mean, std = (fitted[name].reshape((1,) * (x.ndim - 1) + (-1,)) for name in ("mean", "std"))
        changes = std > 1e-6 * jnp.abs(mean)  # below that it is what rounding left
        return (x - mean) / jnp.where(changes, std, 1.0), valid


@jax.jit
def _moments(x: Array, valid: Any, present: Array) -> tuple[Array, Array, Array]:
    """How many positions there are; of each channel the mean, and the sum of squared distances from it."""
    keep = present if valid is None else valid & present[:, None]
    x = x[..., None] if x.ndim == keep.ndim else x
    keep = jnp.broadcast_to(keep.reshape(keep.shape + (1,) * (x.ndim - 1 - keep.ndim)), x.shape[:-1]).reshape(-1)
    x = x.reshape(-1, x.shape[-1])
    count = keep.sum().astype(x.dtype)
    mean = zero_where_not(keep, x).sum(axis=0) / jnp.maximum(count, 1)
    return count, mean, zero_where_not(keep, jnp.square(x - mean[None])).sum(axis=0)


@jax.jit
def _merged(a: tuple[Array, Array, Array], b: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """The moments of both sets together."""
    count = a[0] + b[0]
    share, apart = b[0] / jnp.maximum(count, 1), b[1] - a[1]
    return count, a[1] + share * apart, a[2] + b[2] + jnp.square(apart) * a[0] * share
