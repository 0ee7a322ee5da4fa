"""MulT: Tsai et al., 2019, 'Multimodal Transformer for Unaligned Multimodal Language Sequences', sec. 3.1-3.2, eq. 1-4.

For every ordered pair a transformer in which one modality's sequence attends to the other's low-level tokens; what a
modality took from each of the others is concatenated, passes a transformer of its own, and the last elements of all
are concatenated. Sine positions, no causal mask (the authors' code has one as an option). Takes any number M of
modalities; one alone passes only its own transformer. Gaps: zeros stand in. Time: unaligned tokens, each modality's
in their order. Cost: M(M-1) streams of N_m x N_n a layer. For unaligned sequences in time (words, sound, faces),
where the last element has seen all before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Block, Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not


def sines(length: int, width: int) -> Float[np.ndarray, "length width"]:
    """Fixed positions 1 to `length`: sines of falling frequency, then their cosines."""
    if width % 2:
        raise ConfigError(f"mult: sine positions need an even width, not {width}.")
    omega = 10_000.0 ** (-np.arange(width // 2) / max(width // 2 - 1, 1))
    angle = np.arange(1, length + 1)[:, None] * omega
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


class Stream(nn.Module):
    """Blocks in which `x` attends to itself or, in each of them, to the same `context` (eq. 4)."""

    depth: int
    heads: int
    dropout: float
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], valid: Bool[Array, "B M"], context: Float[Array, "B M D"] | None = None, *, train: bool
    ) -> Float[Array, "B N D"]:
        def placed(x):
            positions = jnp.asarray(sines(*x.shape[1:]), x.dtype)[None]
            return nn.Dropout(self.dropout, deterministic=not train)(x * x.shape[2] ** 0.5 + positions)

        x, context = placed(x), None if context is None else placed(context)
        for i in range(self.depth):
            block = Block(self.heads, 4.0, False, self.dropout, self.dtype, "relu", 1e-5, name=f"block_{i:02d}")
            x = block(x, valid, context, train=train)
        return nn.LayerNorm(1e-5, dtype=self.dtype, name="norm")(x)


class Mult(nn.Module):
    """Pooled is [B, M * (M - 1) * width]. `kernel` is that of the temporal convolution (eq. 2)."""

    width: int = 40
    depth: int = 4
    own_depth: int = 3
    heads: int = 4
    kernel: int = 1
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        parts = {}
        for m, e in zero_absent(encodings).items():
            parts[m] = nn.Conv(self.width, (self.kernel,), use_bias=False, dtype=self.dtype, name=f"{m}_in")(e.tokens), e.valid

        last = []
        for m, (x, valid) in parts.items():
            crossed = []
            for n, (context, context_valid) in parts.items():
                if n != m:
                    stream = Stream(self.depth, self.heads, self.dropout, self.dtype, name=f"{n}_to_{m}")
                    crossed.append(stream(x, context_valid, context, train=train))
            x = jnp.concatenate(crossed, axis=-1) if crossed else x
            x = Stream(self.own_depth, self.heads, self.dropout, self.dtype, name=f"{m}_own")(x, valid, train=train)
            end = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)  # of a padded sequence
            x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
            last.append(zero_where_not(valid.any(axis=1), x))
        return Encoding.from_pooled(jnp.concatenate(last, axis=-1), presence(encodings).any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[Mult, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=4, depth=1, own_depth=1, heads=2, kernel=3), tiny_tokens(audio=(5, 6), text=(3, 4))
