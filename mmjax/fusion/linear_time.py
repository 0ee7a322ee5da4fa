"""Linear-time fusion: all modalities' tokens in one sequence that linear attention or a selective state space mixes.

    linear_attention  Katharopoulos et al., 2020, 'Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention',
                      eq. 4-7, in both directions at once, in a transformer's blocks
    mamba             Gu & Dao, 2023, 'Mamba: Linear-Time Sequence Modeling with Selective State Spaces', sec. 3.2-3.4; in both
                      directions as in Zhu et al., 2024, 'Vision Mamba', algorithm 1: what comes before the convolution, and the
                      gate, they share

Modalities stand one behind the other, or with `order="time"` their tokens in the order of their times; the order matters to a state
space only. Valid tokens are moved to the front, and what pads the sequence takes no step: it gives what it would without padding.
The published Mamba has RMS norms, here are layer norms. Takes any number of modalities. Gaps: left out. Time: unaligned tokens,
or in the order of their times. Cost: linear in the number of all tokens, a state space's memory `expand * width * state` a token.
For sequences so long that attention of every token to every other does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import ceil
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.alignment import clock
from mmjax.nn.tokens import concatenated, projected
from mmjax.nn.transformer import Dtype, Mlp
from mmjax.ops.linear_time import linear_attention, selective_scan
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not

CHOICES = {"mixer": ("state_space", "attention"), "order": ("modality", "time")}


class LinearAttention(nn.Module):
    """Every token attends to all."""

    heads: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        if x.shape[2] % self.heads:
            raise ConfigError(f"A width of {x.shape[2]} does not split into {self.heads} heads.")
        parts = (nn.Dense(x.shape[2], dtype=self.dtype, name=name)(x) for name in ("query", "key", "value"))
        query, key, value = (part.reshape(*x.shape[:2], self.heads, -1).astype(jnp.float32) for part in parts)
        attended = linear_attention(query, key, value, valid).reshape(x.shape)
        return nn.Dense(x.shape[2], dtype=self.dtype, name="out")(attended.astype(self.dtype))


class StateSpace(nn.Module):
    """Mamba's block (fig. 3), its convolution and scan once in each direction. Valid tokens are the first of a row."""

    state: int
    expand: int
    kernel: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        width = self.expand * x.shape[2]
        u, gate = jnp.split(nn.Dense(2 * width, use_bias=False, dtype=self.dtype, name="in")(zero_where_not(valid, x)), 2, axis=2)
        y = self._direction("forward", u, valid) + self._direction("backward", u[:, ::-1], valid[:, ::-1])[:, ::-1]
        return nn.Dense(x.shape[2], use_bias=False, dtype=self.dtype, name="out")(y.astype(self.dtype) * nn.silu(gate))

    def _direction(self, name: str, u: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        width, rank = u.shape[2], ceil(u.shape[2] / self.expand / 16)
        dense = partial(nn.Dense, dtype=self.dtype)
        conv = nn.Conv(width, (self.kernel,), padding=((self.kernel - 1, 0),), feature_group_count=width, dtype=self.dtype)
        u = nn.silu(conv.copy(name=f"{name}_conv")(u))
        small, b, c = jnp.split(dense(rank + 2 * self.state, use_bias=False, name=f"{name}_select")(u), [rank, rank + self.state], axis=2)
        delta = nn.softplus(dense(width, bias_init=step_sizes, name=f"{name}_delta")(small).astype(jnp.float32))
        log_a = self.param(f"{name}_log_a", lambda key: jnp.tile(jnp.log(jnp.arange(1.0, self.state + 1))[None], (width, 1)))
        skip = self.param(f"{name}_skip", nn.initializers.ones, (1, 1, width), jnp.float32)
        u, b, c = (part.astype(jnp.float32) for part in (u, b, c))
        return selective_scan(u, zero_where_not(valid, delta), -jnp.exp(log_a), b, c) + skip * u


def step_sizes(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Biases for which softplus gives step sizes between 0.001 and 0.1, evenly in their logarithm, as in the published code."""
    size = jnp.exp(jax.random.uniform(key, shape, dtype, np.log(1e-3), np.log(0.1)))
    return size + jnp.log(-jnp.expm1(-size))


class LinearTime(nn.Module):
    """Tokens are all valid tokens, then the padding of all; pooled is their mean."""

    width: int = 256
    depth: int = 2
    mixer: str = "state_space"  # or "attention"
    order: str = "modality"  # or "time"
    heads: int = 4  # of the attention
    state: int = 16  # numbers a feature, of the state space
    expand: int = 2
    kernel: int = 4  # of the convolution before it
    mlp_ratio: float = 4.0  # of the attention's blocks
    dropout: float = 0.0
    dtype: Dtype = "float32"

    variants = {"linear_attention": {"mixer": "attention"}, "mamba": {"mixer": "state_space"}}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        for field, known in CHOICES.items():
            if (value := getattr(self, field)) not in known:
                raise ConfigError(f"fusion.{field}={value!r} is unknown.{nearest(value, known)}")
        encodings = zero_absent(encodings)
        x, valid = concatenated(projected(encodings, self.width, self.dtype).values())
        times = clock(encodings)
        at = jnp.concatenate(list(times.time.values()), axis=1)
        order = jnp.argsort(jnp.where(valid, at if self.order == "time" else 0.0, jnp.inf), axis=1, stable=True)
        x, valid, at = (jnp.take_along_axis(part, order.reshape(*order.shape, *[1] * (part.ndim - 2)), axis=1) for part in (x, valid, at))

        drop = nn.Dropout(self.dropout, deterministic=not train)
        norm = partial(nn.LayerNorm, 1e-6, dtype=self.dtype)
        for i in range(self.depth):
            if self.mixer == "attention":
                mixer = LinearAttention(self.heads, self.dtype, name=f"mixer_{i:02d}")
            else:
                mixer = StateSpace(self.state, self.expand, self.kernel, self.dtype, name=f"mixer_{i:02d}")
            x = x + drop(mixer(norm(name=f"norm_{i:02d}")(x), valid))
            if self.mixer == "attention":
                mlp = Mlp(self.mlp_ratio, self.dropout, self.dtype, name=f"mlp_{i:02d}")
                x = x + drop(mlp(norm(name=f"mlp_norm_{i:02d}")(x), train=train))
        x = norm(name="norm")(x)
        return Encoding(x, valid, masked_mean(x, valid), presence(encodings).any(axis=1), times.seconds(at))

    @classmethod
    def tiny(cls) -> tuple[LinearTime, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=4, depth=1, state=2, kernel=3), tiny_tokens(audio=(3, 6), text=(2, 4))
