"""Operations on batches of series: [B, T, C] on the device. See `batch_pp/__init__.py`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmjax.config import ConfigError
from mmjax.data.batch_pp._normalise import normalise as normalise


def rotate(degrees: float = 180.0) -> Callable:
    """As if the sensor sat differently (Um et al., 2017, sec. 3): put it before `normalise`, which mends no angles.

    Each three channels of a row are turned about one random axis, by an angle up to `degrees` to either side.
    """

    def op(x: Float[Array, "B T C"], valid: Bool[Array, "B T"], present: Bool[Array, " B"], key: PRNGKeyArray | None):
        if x.shape[2] % 3:
            raise ConfigError(f"rotate turns channels by threes: {x.shape[2]} are none.")
        if key is None:
            return x, valid
        turns = _rotations(key, len(x), jnp.radians(degrees))
        triples = x.reshape(*x.shape[:2], -1, 3)
        return jnp.einsum("btgi,bij->btgj", triples, turns).reshape(x.shape), valid

    return op


def _rotations(key: PRNGKeyArray, rows: int, most: Float[Array, ""]) -> Float[Array, "B 3 3"]:
    """Rodrigues' formula."""
    towards, by = jax.random.split(key)
    axis = jax.random.normal(towards, (rows, 3))
    x, y, z = (axis / jnp.linalg.norm(axis, axis=1, keepdims=True)).T
    angle = jax.random.uniform(by, (rows, 1, 1), minval=-most, maxval=most)
    zero = jnp.zeros(rows)
    cross = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(rows, 3, 3)
    return jnp.eye(3)[None] + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) * cross @ cross
