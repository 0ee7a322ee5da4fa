"""Compact bilinear pooling (MCB): Fukui et al., 2016, 'Multimodal Compact Bilinear Pooling', sec. 3.1.

The outer product of all modalities, projected at random to `width` features without being made: the circular convolution of
their count sketches, by Fourier transforms, is the count sketch of their outer product. A count sketch adds feature i, times a
random sign s(i), to the entry h(i). Then signed square root and length 1. h and s are drawn from `seed` and the modality's
name, and never trained. What is absent is 1, with which a convolution changes nothing. Takes any number of modalities. Gaps:
left out. Time: one vector a modality. Cost: no parameters, and M + 1 Fourier transforms of `width`, however wide the modalities
are. For products of wide features; which of them count is learned by what reads the fused vector, `width` weights an output.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from mmjax.contract import BATCH_AXES, Encoding
from mmjax.fusion._power import power_normalised
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not


def hashes(name: str, inputs: int, width: int, seed: int) -> tuple[Int[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """Where each of so many features goes, 0 to width - 1, and its sign.

    By numpy's old generator, whose stream is the same in all versions: what a head has learned to read depends on it.
    """
    drawn = np.random.RandomState([seed, zlib.crc32(name.encode())])
    return drawn.randint(0, width, inputs), drawn.choice(np.array([-1, 1], np.float32), inputs)


def sketch(
    x: Float[Array, "B D"], place: Int[Array | np.ndarray, " D"], sign: Float[Array | np.ndarray, " D"], width: int
) -> Float[Array, "B width"]:
    """The count sketch of every row: feature i times its sign is added to the entry that is its place."""
    return jnp.zeros((len(x), width), x.dtype).at[:, place].add(x * sign[None])


def convolved(sketches: list[Float[Array, "B D"]], here: Bool[Array, "B M"]) -> Float[Array, "B D"]:
    """The circular convolution of what every row has."""
    spectrum = jnp.ones((1, sketches[0].shape[1] // 2 + 1), jnp.complex64)
    for i, x in enumerate(sketches):
        spectrum = spectrum * jnp.where(here[:, i, None], jnp.fft.rfft(x), 1)
    return jnp.fft.irfft(spectrum, sketches[0].shape[1])


class CompactBilinear(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]; the sketch is made in float32."""

    width: int = 16_000  # the paper's; wider is closer to the outer product
    seed: int = 0
    normalize: bool = True  # signed square root and length 1
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        encodings, here = zero_absent(encodings), presence(encodings)
        sketches = []
        for m, e in encodings.items():
            place, sign = hashes(m, e.pooled.shape[1], self.width, self.seed)
            sketches.append(sketch(e.pooled.astype(jnp.float32), place, sign, self.width))
        fused = _by_rows(convolved)(sketches, here)
        fused = (power_normalised(fused) if self.normalize else fused).astype(self.dtype)
        return Encoding.from_pooled(zero_where_not(here.any(axis=1), fused), here.any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[CompactBilinear, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))


def _by_rows(function):
    """Every device its own rows: the partitioner would send all rows to all devices for a Fourier transform."""
    if jax.sharding.get_abstract_mesh().empty:
        return function
    rows = PartitionSpec(BATCH_AXES)
    return jax.shard_map(function, in_specs=rows, out_specs=rows)
