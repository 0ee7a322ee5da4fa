"""Tucker fusion (Tucker, MUTAN, BLOCK): Ben-younes et al., 2017, 'MUTAN', sec. 3, and 2019, 'BLOCK'.

The weight tensor of a bilinear product in Tucker's decomposition: every modality is projected, x_m = W_m x + b_m, and a core T
takes the projections, z = T x_1 x_2 ... + c. The last factor matrix is whatever reads z. The core decides on the method:

    Tucker        T is full, width^(M+1) entries for M modalities
    MUTAN         every slice of T has rank R: z = sum_r prod_m (W_m^r x_m + b_m^r)
    BLOCK         T is superdiagonal in blocks: a chunk of each x_m meets its like alone, as in MUTAN; the signed square root of
                  what it gives is scaled to length 1, chunk by chunk, as in the published code
    block-Tucker  the same with full blocks, chunks * (width / chunks)^(M+1) entries

The papers' two modalities are here any number, each a mode of the core. Takes any number of modalities. Gaps: a learned bias
stands in. Time: one vector a modality. Cost: M dense layers to `width`, and rank * width^2 / chunks products for each, or a
product for every entry of a full core. For rich interactions of two or three modalities; `low_rank` has no projections before.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._power import power_normalised
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not


class Tucker(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]; variants have the sizes of the published code.

    Raises `ConfigError` where `chunks` do not divide `width`, or for a core of more than `largest` entries.
    """

    width: int = 256  # of the projections, and of what the core gives
    chunks: int = 8
    rank: int | None = 5  # None: full blocks
    normalize: bool = True  # signed square root and length 1 of every chunk
    largest: int = 100_000_000
    dtype: Dtype = "float32"

    variants = {
        "tucker": {"width": 235, "chunks": 1, "rank": None, "normalize": False},
        "mutan": {"width": 700, "chunks": 1, "rank": 10, "normalize": False},
        "block": {"width": 1600, "chunks": 20, "rank": 15},
        "block_tucker": {"width": 1800, "chunks": 10, "rank": None},
    }

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.width % self.chunks:
            raise ConfigError(f"fusion: chunks={self.chunks} do not divide width={self.width}.")
        encodings, init = zero_absent(encodings), nn.initializers
        here = presence(encodings).any(axis=1)
        # Half of a projection's variance is its bias, or an absent modality would silence the others.
        kernel, bias = init.variance_scaling(0.5, "fan_in", "normal"), init.normal(0.5**0.5)
        x = {
            m: nn.Dense(self.width, dtype=self.dtype, kernel_init=kernel, bias_init=bias, name=f"{m}_in")(e.pooled)
            for m, e in encodings.items()
        }
        chunks = {m: value.reshape(len(here), self.chunks, -1) for m, value in x.items()}
        z = self._full(chunks) if self.rank is None else self._of_rank(chunks, self.rank)
        z = (power_normalised(z) if self.normalize else z).reshape(len(here), -1)
        return Encoding.from_pooled(zero_where_not(here, z), here)

    def _of_rank(self, x: Mapping[str, Float[Array, "B C S"]], rank: int) -> Float[Array, "B C S"]:
        """The sum over ranks of products over modalities."""
        rows, chunks, size = next(iter(x.values())).shape
        scale = (rank ** (-1 / len(x)) / size) ** 0.5  # the sum has variance 1
        product = jnp.ones((rows, chunks, rank, size), self.dtype)
        for m, value in x.items():
            weight = self._weight(f"{m}_core", nn.initializers.normal(scale), (chunks, size, rank, size))
            bias = self._weight(f"{m}_core_bias", nn.initializers.zeros, (1, chunks, rank, size))
            product = product * (jnp.einsum("bci,ciro->bcro", value, weight) + bias)
        return product.sum(axis=2)

    def _full(self, x: Mapping[str, Float[Array, "B C S"]]) -> Float[Array, "B C S"]:
        """One mode of the core after another; before the last one a row has the core's size over that of the first mode."""
        rows, chunks, size = next(iter(x.values())).shape
        entries = chunks * size ** (len(x) + 1)
        if entries > self.largest:
            raise ConfigError(
                f"fusion: the core for {len(x)} modalities with width={self.width} and chunks={self.chunks} has {entries:,} entries, "
                f"more than largest={self.largest:,}. Choose a smaller width, more chunks, or a rank, which never makes the core."
            )
        core = self._weight("core", nn.initializers.normal(size ** (-len(x) / 2)), (chunks, *(size,) * (len(x) + 1)))
        first, *further = x.values()
        z = jnp.einsum("bci,cij->bcj", first, core.reshape(chunks, size, -1))
        for value in further:
            z = jnp.einsum("bci,bcij->bcj", value, z.reshape(rows, chunks, size, -1))
        return z + self._weight("core_bias", nn.initializers.zeros, (1, chunks, size))

    def _weight(self, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...]) -> Array:
        return self.param(name, init, shape, jnp.float32).astype(self.dtype)

    @classmethod
    def tiny(cls) -> tuple[Tucker, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8, chunks=2, rank=2), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
