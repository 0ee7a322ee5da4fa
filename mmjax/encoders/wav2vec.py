"""wav2vec 2.0: Baevski et al., 2020, 'wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations', sec. 2.

Convolutions over the waveform, a convolution for positions, a transformer. HuBERT (Hsu et al., 2021) is the same encoder, trained
otherwise. `variant="base"`, "large" and "large-lv60" are published sizes, "xlarge" is HuBERT's.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.conv import TimeConv
from mmjax.nn.norm import Norm
from mmjax.nn.transformer import Dtype, Transformer
from mmjax.ops.masks import masked_mean, masks_of, token_times, valid_windows, zero_where_not

LARGE = {"width": 1024, "depth": 24, "heads": 16}
STABLE = {"norm": "layer", "conv_bias": True, "pre_norm": True}


def standardised(x: Float[Array, "B S"], valid: Bool[Array, "B S"]) -> Float[Array, "B S"]:
    """Every row with mean 0 and variance 1 over what is valid, 0 elsewhere."""
    mean = masked_mean(x[..., None], valid)
    x = zero_where_not(valid, x - mean)
    return x * jax.lax.rsqrt(masked_mean(jnp.square(x)[..., None], valid) + 1e-7)


class Wav2vec(nn.Module):
    """Waveforms [B, S], 16,000 samples a second, to a token for every 320 of them and their mean, [B, width].

    A token is valid if all the samples that it sees are, 400 from 320 * i on; a clip that is shorter keeps its first.
    What is not valid is never seen. With `norm="group"` (base, large) that departs from the published code on padded input: its first norm
    takes its statistics over the padding, too; unpadded, and with `norm="layer"`, the values are the published ones.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    convs: Sequence[Sequence[int]] = ((512, 10, 5), *((512, 3, 2),) * 4, *((512, 2, 2),) * 2)  # width, size, stride
    norm: str = "group"  # of the first convolution alone, a group a channel; or "layer", of all
    conv_bias: bool = False
    pre_norm: bool = False  # in the transformer
    position_size: int = 128
    position_groups: int = 16
    normalise: bool = True  # every clip to mean 0 and variance 1, as all released models but the first want it
    dropout: float = 0.0
    rate: float = 16_000.0  # samples a second, for the tokens' times
    dtype: Dtype = "float32"
    remat: bool | str = False  # less memory for more time, by a policy of `nn/transformer.py`
    scan: bool = False  # one program for all blocks, of `nn/transformer.py`

    variants = {"base": {}, "large": LARGE, "large-lv60": LARGE | STABLE, "xlarge": {"width": 1280, "depth": 48, "heads": 16, **STABLE}}

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S"], valid: Bool[Array, "B S"] | None = None, present: Bool[Array, " B"] | None = None, *, train: bool
    ) -> Encoding:
        if self.norm not in ("group", "layer"):
            raise ConfigError(f"wav2vec: norm={self.norm!r} is unknown (group, layer).")
        size, stride = 1, 1  # of the window that a token sees
        for _, s, t in self.convs:
            size, stride = size + (s - 1) * stride, stride * t
        if x.shape[1] < size:
            raise ConfigError(f"wav2vec: {x.shape[1]} samples are fewer than the {size} of one token. Pad the batch.")
        valid, present = masks_of(x, valid, present)
        x = zero_where_not(valid, x)
        x = (standardised(x, valid) if self.normalise else x).astype(self.dtype)[..., None]

        for i, (width, s, t) in enumerate(self.convs):
            conv = nn.Conv(width, (s,), t, padding="VALID", use_bias=self.conv_bias, dtype=self.dtype, name=f"conv_{i}")
            x, valid = conv(x), valid_windows(valid, s, t)
            if self.norm == "layer":
                x = nn.LayerNorm(1e-5, dtype=self.dtype, name=f"norm_{i}")(x)
            elif i == 0:
                x = Norm("instance", self.dtype, name="norm_0")(x, valid, train=train)
            x = nn.gelu(x, approximate=False)
        x = nn.LayerNorm(1e-5, dtype=self.dtype, name="features_norm")(x)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = zero_where_not(valid, drop(nn.Dense(self.width, dtype=self.dtype, name="projection")(x)))

        half = self.position_size // 2
        padding = (half, self.position_size - 1 - half)
        positions = TimeConv(self.width, self.position_size, padding, 1, self.position_groups, 0, self.dtype, name="positions")
        x = x + nn.gelu(positions(x), approximate=False)
        x, stages = Transformer(
            self.depth,
            self.heads,
            self.mlp_ratio,
            dropout=self.dropout,
            dtype=self.dtype,
            activation="gelu_exact",
            norm_epsilon=1e-5,
            remat=self.remat,
            scan=self.scan,
            post_norm=not self.pre_norm,
            name="transformer",
        )(drop(x) if self.pre_norm else x, valid, train=train)
        return Encoding(x, valid, masked_mean(x, valid), present, token_times(valid, stride, self.rate, size), stages)

    @classmethod
    def tiny(cls) -> tuple[Wav2vec, dict[str, np.ndarray]]:
        """A small instance of the first kind, and a batch of ragged lengths for it."""
        valid = np.arange(60) < np.array([60, 32, 9, 45])[:, None]
        audio = np.random.default_rng(0).normal(size=(4, 60)).astype(np.float32)
        convs = ((8, 6, 3), (8, 3, 2), (8, 2, 2))
        return cls(16, 2, 2, 2.0, convs, position_size=4, position_groups=2), {"audio": audio, "audio/valid": valid}
