"""Transformers over a log-mel spectrogram, by their stems.

"patches": the Audio Spectrogram Transformer (Gong et al., 2021, sec. 2): square patches that overlap, a class and a
distillation token, learned positions. "convs": Whisper's encoder (Radford et al., 2022, sec. 2.2): two convolutions
over time, fixed positions, a token for every two frames. `variant="ast"`, "imagebind" (Girdhar et al., 2023: patches and a class
token alone) and "whisper-tiny" are published sizes.
Neither had masks where it was published: AST saw padding as silence, Whisper 30 seconds always. Here what is not valid is
not seen, so that a padded input gives what it gives alone, and an unpadded one what it gave there.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.positions import Positions, learned_positions
from mmjax.nn.transformer import SIZES, Dtype, Transformer
from mmjax.ops.masks import masked_mean, masks_of, token_times, valid_strides, valid_windows, zero_where_not

WHISPER = {"tiny": (384, 4, 6), "base": (512, 6, 8), "small": (768, 12, 12), "medium": (1024, 24, 16), "large": (1280, 32, 20)}


class SpectrogramTransformer(nn.Module):
    """Log-mel [B, T, F] to tokens and a pooled vector [B, width].

    With "patches" the tokens are the class and the distillation token (with extra=1 the class token alone) and then, frequency by
    frequency, the patches; pooled is the mean of these first ones. A patch is valid if all of its frames are, and in a clip
    shorter than a patch the first is; no patch hangs over the end. Positions are learned for the T and F of initialisation: a
    shorter clip takes the first, a longer one is an error. With "convs" there is a token for two frames, valid if one of them is,
    T may be anything, and pooled is the mean.
    """

    stem: str = "patches"  # or "convs"
    width: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    patch: int = 16
    stride: int = 10  # between patches; the patch's size for none that overlap
    extra: int = 2  # tokens before the patches
    patch_norm: bool = False  # a norm behind the patches' layer, which has no bias then
    bias_kv: bool = False  # of `nn/transformer.py`'s `Attention`
    dropout: float = 0.0
    rate: float | None = None  # frames a second: with it the tokens of "convs" have times
    dtype: Dtype = "float32"
    activation: str = "gelu_exact"
    norm_epsilon: float = 1e-5
    remat: bool | str = False  # less memory for more time, by a policy of `nn/transformer.py`
    scan: bool = False  # one program for all blocks, of `nn/transformer.py`

    variants = {
        "ast": {"norm_epsilon": 1e-12, **SIZES["B"]},
        "imagebind": {"norm_epsilon": 1e-6, "extra": 1, "patch_norm": True, "bias_kv": True, **SIZES["B"]},
        **{f"whisper-{n}": {"stem": "convs", "width": w, "depth": d, "heads": h} for n, (w, d, h) in WHISPER.items()},
    }

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T F"], valid: Bool[Array, "B T"] | None = None, present: Bool[Array, " B"] | None = None, *, train: bool
    ) -> Encoding:
        if self.stem not in ("patches", "convs"):
            raise ConfigError(f"spectrogram_transformer: stem={self.stem!r} is unknown (patches, convs).")
        valid, present = masks_of(x, valid, present)
        x = zero_where_not(valid, x).astype(self.dtype)
        patches = self.stem == "patches"
        x, valid = self._patches(x, valid, present) if patches else self._convs(x, valid)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x, stages = Transformer(
            self.depth,
            self.heads,
            self.mlp_ratio,
            dropout=self.dropout,
            dtype=self.dtype,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            remat=self.remat,
            scan=self.scan,
            key_bias=patches,  # Whisper has none
            bias_kv=self.bias_kv,
            name="transformer",
        )(x, valid, train=train)
        pooled = x[:, : self.extra].mean(axis=1) if patches else masked_mean(x, valid)
        return Encoding(x, valid, pooled, present, None if patches else token_times(valid, 2, self.rate), stages)

    def _patches(self, x: Float[Array, "B T F"], valid: Bool[Array, "B T"], present: Bool[Array, " B"]):
        size, (rows, frames, bins) = self.patch, x.shape
        if frames < size or bins < size:
            least = f"{max(frames, size)} x {max(bins, size)}"
            raise ConfigError(
                f"spectrogram_transformer: no patch of {size} x {size} fits a spectrogram of {frames} x {bins}. Pad it to {least} or more."
            )
        more = {"padding": "VALID", "use_bias": not self.patch_norm, "dtype": self.dtype}
        x = nn.Conv(self.width, (size, size), strides=self.stride, **more, name="embedding")(x[..., None])
        x = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm_patches")(x) if self.patch_norm else x
        x = rearrange(x, "b t f d -> b f t d")
        valid = jnp.broadcast_to(valid_windows(valid, size, self.stride)[:, None], x.shape[:3])
        x = x + learned_positions(self, x.shape[1:3], self.width, "spectrogram_transformer").astype(x.dtype)

        normal, shape = nn.initializers.normal(0.02), (1, self.extra, self.width)
        extra = self.param("extra_tokens", normal, shape, jnp.float32) + self.param("extra_positions", normal, shape, jnp.float32)
        extra = jnp.broadcast_to(extra.astype(x.dtype), (rows, self.extra, self.width))
        x = jnp.concatenate([extra, rearrange(x, "b f t d -> b (f t) d")], axis=1)
        return x, jnp.concatenate([jnp.broadcast_to(present[:, None], (rows, self.extra)), rearrange(valid, "b f t -> b (f t)")], axis=1)

    def _convs(self, x: Float[Array, "B T F"], valid: Bool[Array, "B T"]):
        for i, stride in enumerate((1, 2)):
            x = nn.gelu(nn.Conv(self.width, (3,), stride, padding=1, dtype=self.dtype, name=f"conv_{i}")(x), approximate=False)
            valid = valid_strides(valid, stride)
            x = zero_where_not(valid, x)
        return Positions("sincos", "spectrogram_transformer", name="positions")(x), valid

    @classmethod
    def tiny(cls) -> tuple[SpectrogramTransformer, dict[str, np.ndarray]]:
        """A small instance of patches, and a batch of ragged lengths for it."""
        valid = np.arange(11) < np.array([11, 7, 2, 9])[:, None]
        audio = np.random.default_rng(0).normal(size=(4, 11, 6)).astype(np.float32)
        more = {"extra": 1, "patch_norm": True, "bias_kv": True}
        return cls(width=16, depth=2, heads=2, patch=4, stride=2, **more), {"audio": audio, "audio/valid": valid}
