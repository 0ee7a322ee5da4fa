"""Recurrent networks: LSTM (Hochreiter & Schmidhuber, 1997; with the forget gate of Gers et al., 2000) and GRU (Cho et al., 2014).

Gates as PyTorch's: input, forget, cell, output, and reset, update, new with the reset gate behind the recurrent product.
An invalid step leaves the state as it was, in either direction, so that a padded row gives what it gives alone: what
`pack_padded_sequence` is for in PyTorch.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, masks_of, token_times, zero_where_not

State = tuple[Float[Array, "B H"], ...]


def lstm(seen: Float[Array, "B G"], product: Float[Array, "B G"], state: State) -> State:
    """Output and cell after a step that the gates see as `seen`; `product` is the old output's part in them."""
    i, f, g, o = jnp.split(seen + product, 4, axis=1)
    c = nn.sigmoid(f) * state[1] + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def gru(seen: Float[Array, "B G"], product: Float[Array, "B G"], state: State) -> State:
    """Output after a step, as for `lstm`."""
    (r, z, n), (hr, hz, hn) = jnp.split(seen, 3, axis=1), jnp.split(product, 3, axis=1)
    z = nn.sigmoid(z + hz)
    return ((1 - z) * jnp.tanh(n + nn.sigmoid(r + hr) * hn) + z * state[0],)


CELLS = {"lstm": (lstm, 4, 2), "gru": (gru, 3, 1)}  # function, gates, states


class Direction(nn.Module):
    """One layer in one direction. Returns what it gives at each step, 0 where a step is not valid, and its last state.

    PyTorch has two biases, of the input's and of the state's product. Only their sum matters, which is `input/bias`, but
    in a GRU's new gate, where the state's own is `new_bias`.
    """

    cell: str
    width: int
    reverse: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"], valid: Bool[Array, "B T"]) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        cell, count, states = CELLS[self.cell]

        def recurrent(key: Any, shape: tuple[int, int], dtype: Any) -> Array:  # every gate's own is orthogonal
            orthogonal = nn.initializers.orthogonal()
            return jnp.concatenate([orthogonal(k, (shape[0], shape[0]), dtype) for k in jax.random.split(key, count)], axis=1)

        def bias(key: Any, shape: tuple[int], dtype: Any) -> Array:  # the forget gate starts open (Jozefowicz et al., 2015, sec. 2.2)
            opened = (jnp.arange(shape[0]) // self.width == 1) & (self.cell == "lstm")
            return opened.astype(dtype)

        gates = nn.Dense(count * self.width, dtype=self.dtype, bias_init=bias, name="input")(x)
        kernel = self.param("kernel", recurrent, (self.width, count * self.width), jnp.float32).astype(self.dtype)
        state_bias = jnp.zeros(count * self.width, self.dtype)
        if self.cell == "gru":
            own = self.param("new_bias", nn.initializers.zeros, (self.width,), jnp.float32)
            state_bias = state_bias.at[-self.width :].set(own.astype(self.dtype))

        def step(state, at):
            seen, here = at
            after = cell(seen, state[0] @ kernel + state_bias[None], state)
            state = tuple(jnp.where(here[:, None], new, old) for new, old in zip(after, state, strict=True))
            return state, state[0]

        start = (jnp.zeros((x.shape[0], self.width), self.dtype),) * states
        over_time = rearrange(gates, "b t g -> t b g"), valid.T
        last, outputs = jax.lax.scan(step, start, over_time, reverse=self.reverse)
        return zero_where_not(valid, rearrange(outputs, "t b h -> b t h")), last[0]


class Rnn(nn.Module):
    """Series [B, T, C] to one token a step, valid where the step is, and a pooled vector, as wide: `width`, twice if bidirectional."""

    cell: str = "lstm"  # or "gru"
    width: int = 128
    depth: int = 1
    bidirectional: bool = False
    pool: str = "end"  # the last layer's last states, of each direction; or "mean"
    dropout: float = 0.0  # between layers
    rate: float | None = None  # steps a second: with it the tokens have times
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T C"], valid: Bool[Array, "B T"] | None = None, present: Bool[Array, " B"] | None = None, *, train: bool
    ) -> Encoding:
        for key, known in {"cell": tuple(CELLS), "pool": ("end", "mean")}.items():
            if getattr(self, key) not in known:
                raise ConfigError(f"rnn: {key}={getattr(self, key)!r} is unknown ({', '.join(known)}).")
        valid, present = masks_of(x, valid, present)
        x = zero_where_not(valid, x).astype(self.dtype)
        stages, last = [], x[:, 0]
        for i in range(self.depth):
            x = nn.Dropout(self.dropout, deterministic=not train)(x) if i else x
            runs = {"forward": False, "backward": True} if self.bidirectional else {"forward": False}
            out = [Direction(self.cell, self.width, back, self.dtype, name=f"layer_{i}_{name}")(x, valid) for name, back in runs.items()]
            x, last = (jnp.concatenate(parts, axis=-1) for parts in zip(*out, strict=True))
            stages.append(x)
        pooled = last if self.pool == "end" else masked_mean(x, valid)
        return Encoding(x, valid, pooled, present, token_times(valid, 1, self.rate), tuple(stages))

    @classmethod
    def tiny(cls) -> tuple[Rnn, dict[str, np.ndarray]]:
        """A small instance in both directions, and a batch of ragged lengths for it."""
        rng = np.random.default_rng(0)
        valid = np.arange(7) < np.array([7, 5, 2, 4])[:, None]
        series = rng.normal(size=(4, 7, 3)).astype(np.float32)
        return cls(cell="gru", width=6, depth=2, bidirectional=True, dropout=0.1), {"series": series, "series/valid": valid}
