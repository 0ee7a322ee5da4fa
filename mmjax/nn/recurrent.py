"""What recurrent fusion shares."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def lstm(gates: Float[Array, "B G"], cell: Float[Array, "B H"]) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
    """Output and cell after a step whose gates, input, forget, cell and output, come to `gates`: Hochreiter & Schmidhuber, 1997."""
    i, f, g, o = jnp.split(gates, 4, axis=1)
    cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(cell), cell


def lstm_bias(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The forget gate starts open: Jozefowicz et al., 2015, 'An Empirical Exploration of Recurrent Network Architectures', sec. 2.2."""
    return (jnp.arange(shape[0]) * 4 // shape[0] == 1).astype(dtype)


def lstm_recurrent(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """An orthogonal matrix for every gate."""
    orthogonal = nn.initializers.orthogonal()
    return jnp.concatenate([orthogonal(k, (shape[0], shape[1] // 4), dtype) for k in jax.random.split(key, 4)], axis=1)
