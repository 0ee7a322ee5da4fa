"""Swin transformer: Liu et al., 2021, 'Swin Transformer', sec. 3; on spectrograms HTSAT: Chen et al., 2022, sec. 2.

Attention is within windows, which every second block shifts by half of their size; between stages four tokens become one of
twice the width. `variant="T"`, "S", "B" and "L" are Swin's sizes, for images of 224 x 224; "htsat-T" and "htsat-B" are CLAP's (Wu
et al., 2023), for 64 log-mel bins and up to 1,024 frames. Stochastic depth, with which they were trained, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Shaped

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.norm import Norm
from mmjax.nn.transformer import Block, Dtype
from mmjax.ops.masks import masks_of, zero_where_not


def stretched(x: Float[Array, "B T F"], valid: Bool[Array, "B T"], frames: int) -> Float[Array, "B frames F"]:
    """What is valid of each row drawn out to `frames`, its ends to the ends.

    Cubic convolution (Keys, 1981) with a = -3/4, as PyTorch's bicubic interpolation has it; beyond the ends the last frame repeats.
    """
    last = jnp.maximum(valid.sum(axis=1, keepdims=True, dtype=jnp.int32) - 1, 0)  # [B,1]
    place = jnp.arange(frames, dtype=jnp.float32)[None] * (last.astype(jnp.float32) / (frames - 1))
    near = jnp.floor(place)[:, :, None] + jnp.arange(-1, 3, dtype=jnp.float32)[None, None]  # [B,frames,4]
    far = jnp.abs(place[:, :, None] - near)
    weight = jnp.where(far <= 1, (1.25 * far - 2.25) * far**2 + 1, ((-0.75 * far + 3.75) * far - 6) * far + 3)
    index = jnp.clip(near.astype(jnp.int32), 0, last[:, :, None]).reshape(len(x), -1)
    index = jnp.take_along_axis(jnp.argsort(~valid, axis=1, stable=True), index, axis=1)
    taken = jnp.take_along_axis(x, index[:, :, None], axis=1)
    return jnp.einsum("btkf,btk->btf", rearrange(taken, "b (t k) f -> b t k f", k=4), weight.astype(x.dtype))


def ways(size: int, window: int) -> Int[np.ndarray, "N N"]:
    """Where in a table of all ways within a window, (2 * window - 1)^2, the one between two of N = size^2 places stands."""
    place = np.mgrid[:size, :size].reshape(2, -1)
    down, right = place[:, :, None] - place[:, None] + window - 1
    return down * (2 * window - 1) + right


def apart(height: int, width: int, size: int, shift: int) -> Bool[np.ndarray, "W N N"]:
    """Which places of a window lie side by side only because the image was rolled by `shift`."""
    down, right = (np.digitize(np.arange(n), (n - size, n - shift)) for n in (height, width))
    region = rearrange(3 * down[:, None] + right[None], "(h p) (w q) -> (h w) (p q)", p=size, q=size)
    return region[:, :, None] != region[:, None]


class WindowBlock(nn.Module):
    """A block whose attention is within windows and adds to each logit what is learned of the way between the two tokens."""

    heads: int
    window: int
    shifted: bool
    mlp_ratio: float
    dropout: float
    dtype: Dtype
    activation: str
    norm_epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "B H W D"], *, train: bool) -> Float[Array, "B H W D"]:
        rows, height, width, _ = x.shape
        size = min(self.window, height, width)
        shift = self.window // 2 if self.shifted and min(height, width) > self.window else 0
        table = self.param("positions", nn.initializers.normal(0.02), ((2 * self.window - 1) ** 2, self.heads), jnp.float32)
        bias = rearrange(table[ways(size, self.window)], "n m h -> 1 h n m")
        if shift:
            bias = jnp.where(apart(height, width, size, shift)[:, None], -1e30, bias)
            bias = jnp.tile(bias, (rows, 1, 1, 1))
            x = jnp.roll(x, (-shift, -shift), axis=(1, 2))
        x = rearrange(x, "b (h p) (w q) d -> (b h w) (p q) d", p=size, q=size)
        block = Block(
            self.heads,
            self.mlp_ratio,
            dropout=self.dropout,
            dtype=self.dtype,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            name="block",
        )
        nn.share_scope(self, block)
        x = block(x, bias=bias.astype(self.dtype), train=train)
        x = rearrange(x, "(b h w) (p q) d -> b (h p) (w q) d", h=height // size, w=width // size, p=size)
        return jnp.roll(x, (shift, shift), axis=(1, 2)) if shift else x


class Swin(nn.Module):
    """Images [B, H, W, C] or log-mel [B, T, F] to the last stage's tokens and their mean, [B, width * 2^(stages - 1)].

    What is valid of a spectrogram is normalised by batch statistics of each bin, drawn out to size^2 / F frames and laid into a
    square, piece by piece: the tokens stand frequency by frequency, all valid. So a clip that is shorter than those
    frames is slowed down, as published; CLAP was given such clips over and over up to its 10 seconds. A longer one is an error.
    """

    patch: int = 4
    width: int = 96  # of the first stage
    depths: Sequence[int] = (2, 2, 6, 2)
    heads: Sequence[int] = (3, 6, 12, 24)
    window: int = 7  # its side in tokens; of the whole image where that is smaller
    mlp_ratio: float = 4.0
    size: int = 256  # the side of a spectrogram's square
    dropout: float = 0.0
    dtype: Dtype = "float32"
    activation: str = "gelu_exact"  # of `nn/transformer.py`
    norm_epsilon: float = 1e-5

    variants = {
        "T": {},
        "S": {"depths": (2, 2, 18, 2)},
        "B": {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
        "L": {"width": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48)},
        "htsat-T": {"heads": (4, 8, 16, 32), "window": 8},
        "htsat-B": {"width": 128, "depths": (2, 2, 12, 2), "heads": (4, 8, 16, 32), "window": 8},
    }

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W *C"],
        valid: Shaped[Array, "..."] | None = None,
        present: Bool[Array, " B"] | None = None,
        *,
        train: bool,
    ) -> Encoding:
        if len(self.depths) != len(self.heads):
            raise ConfigError(f"swin: depths={tuple(self.depths)} and heads={tuple(self.heads)} should be as many.")
        image, pieces = x.ndim == 4, 1
        valid, present = masks_of(x, None if image else valid, present)
        x = zero_where_not(valid, x).astype(self.dtype)
        if not image:
            pieces = self._pieces(*x.shape[1:])
            x = stretched(Norm("batch", self.dtype, name="input_norm")(x, valid, train=train), valid, self.size * pieces)
            x = rearrange(x, "b (k t) f -> b (k f) t 1", k=pieces)

        def norm(name):
            return nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name=name)

        def sequence(x):
            return rearrange(x, "b (k h) w d -> b (h k w) d", k=pieces)

        stages = []
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            if stage == 0:
                self._check(x, self.patch, "patches")
                x = rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=self.patch, q=self.patch)
                x = norm("embedding_norm")(nn.Dense(self.width, dtype=self.dtype, name="embedding")(x))
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            else:
                self._check(x, 2, "squares")
                x = norm(f"stage_{stage - 1}_merge_norm")(rearrange(x, "b (h p) (w q) c -> b h w (q p c)", p=2, q=2))
                x = nn.Dense(self.width * 2**stage, use_bias=False, dtype=self.dtype, name=f"stage_{stage - 1}_merge")(x)
            self._check(x, min(self.window, *x.shape[1:3]), "windows")
            for i in range(depth):
                block = WindowBlock(
                    heads,
                    self.window,
                    i % 2 == 1,
                    self.mlp_ratio,
                    self.dropout,
                    self.dtype,
                    self.activation,
                    self.norm_epsilon,
                    name=f"stage_{stage}_block_{i:02d}",
                )
                x = block(x, train=train)
            stages.append(sequence(x))
        tokens = norm("norm")(stages[-1])
        here = jnp.broadcast_to(present[:, None], tokens.shape[:2])
        return Encoding(tokens, here, tokens.mean(axis=1), present, stages=tuple(stages))

    def _pieces(self, frames: int, bins: int) -> int:
        """Into how many pieces a spectrogram is cut."""
        least = self.patch * 2 ** (len(self.depths) - 1)
        if self.size % bins or bins % least:
            raise ConfigError(f"swin: {bins} mel bins should divide size={self.size}, and be a multiple of the {least} of one token.")
        if frames > (most := self.size**2 // bins):
            raise ConfigError(f"swin: a spectrogram of {frames} frames is longer than the {most} of size={self.size}. Cut it.")
        return self.size // bins

    def _check(self, x: Float[Array, "B H W C"], side: int, what: str) -> None:
        _, height, width, _ = x.shape
        if height % side or width % side:
            raise ConfigError(
                f"swin: {what} of {side} x {side} do not divide {height} x {width}. Take images of another size, or another window."
            )

    @classmethod
    def tiny(cls) -> tuple[Swin, dict[str, np.ndarray]]:
        """A small instance, and spectrograms of ragged lengths for it."""
        valid = np.arange(11) < np.array([11, 7, 2, 9])[:, None]
        audio = np.random.default_rng(0).normal(size=(4, 11, 4)).astype(np.float32)
        return cls(patch=2, width=8, depths=(2, 1), heads=(1, 2), window=2, size=8), {"audio": audio, "audio/valid": valid}
