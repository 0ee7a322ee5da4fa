"""Where tokens stand, along one axis."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.config import ConfigError

KINDS = ("sincos", "learned")


def sincos_1d(length: int, dim: int) -> Float[np.ndarray, "N D"]:
    """Sines, then cosines of a position, of wavelengths from 2 pi to 10,000 * 2 pi: Vaswani et al., 2017, sec. 3.5, as Whisper has them."""
    if dim % 2 or dim < 4:
        raise ConfigError(f"sin-cos positions need an even width from 4 on, not {dim}.")
    angle = np.arange(length)[:, None] * 10_000.0 ** (-np.arange(dim // 2) / (dim // 2 - 1))
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def shares(place: Float[Array, "#B N"], length: Float[Array, "#B 1"], size: int) -> Float[Array, "B N S"]:
    """What each of `size` learned positions, laid evenly over an axis of so many tokens, gives to each place on it.

    Linear, and with antialiasing where there are fewer tokens than positions: as images are resized.
    """
    scale = size / length
    at = ((place + 0.5) * scale - 0.5)[..., None]
    weight = jnp.maximum(1 - jnp.abs(jnp.arange(size, dtype=jnp.float32)[None, None] - at) / jnp.maximum(scale, 1)[..., None], 0)
    return weight / weight.sum(axis=-1, keepdims=True)


def nearest_sizes(shape: Sequence[int], steps: Sequence[int]) -> str:
    """The next smaller and the next larger size that `steps` divide, as in "224 x 224 or 240 x 240"."""
    smaller = [n - n % step for n, step in zip(shape, steps, strict=True)]
    larger = [n + -n % step for n, step in zip(shape, steps, strict=True)]
    return " or ".join(" x ".join(map(str, size)) for size in (smaller, larger) if all(size))


class Positions(nn.Module):
    """Adds to [B, N, D] tokens what says where they stand.

    "sincos" is fixed and takes any length. "learned" has as many positions as the module was initialised with: a
    shorter sequence takes the first of them, a longer one is a `ConfigError`.
    """

    kind: str
    of: str  # the encoder, for the message

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        _, length, width = x.shape
        if self.kind == "sincos":
            return x + jnp.asarray(sincos_1d(length, width), x.dtype)[None]
        return x + learned_positions(self, (length,), width, self.of).astype(x.dtype)


def learned_positions(module: nn.Module, shape: tuple[int, ...], width: int, of: str) -> Float[Array, "1 ... D"]:
    """The parameter `positions` of a module, [1, *shape, width], cut to `shape` where it was initialised with a larger one."""
    known = shape
    if module.has_variable("params", "positions"):
        known = module.get_variable("params", "positions").shape[1:-1]
    if any(n > k for n, k in zip(shape, known, strict=True)):
        tokens, trained = (" x ".join(map(str, s)) for s in (shape, known))
        raise ConfigError(
            f"{of}: an input of {tokens} tokens is longer than the {trained} positions learned. Cut it, or train with longer ones."
        )
    positions = module.param("positions", nn.initializers.normal(0.02), (1, *known, width), jnp.float32)
    return positions[(slice(None), *(slice(n) for n in shape))]
