"""Convolutions, each pooled by two, for small pictures and spectrograms: LeCun et al., 1998, 'Gradient-Based Learning Applied to
Document Recognition', sec. II, in the form that AV-MNIST's methods share (Pérez-Rúa et al., 2019, 'MFAS: Multimodal Fusion
Architecture Search', and its published code): batch norm, ReLU, twice as many channels a layer, the mean of the last one's positions.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Shaped

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.norm import Norm
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, masks_of, token_times, zero_where_not


class LeNet(nn.Module):
    """Images [B, H, W, C] or spectrograms [B, T, F] to the last layer's positions (of a spectrogram: times) as tokens and their mean,
    [B, width * 2^(depth - 1)].

    Each layer halves both sides and leaves out what is odd, at the end of a ragged row as at that of the array. Of a row that is
    shorter than one time, that time is valid.
    """

    width: int = 6  # of the first layer
    depth: int = 4
    norm: str = "batch"  # or "group"
    rate: float | None = None  # frames a second: with it the tokens of a spectrogram have times
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W *C"],
        valid: Shaped[Array, "..."] | None = None,
        present: Bool[Array, " B"] | None = None,
        *,
        train: bool,
    ) -> Encoding:
        if self.norm not in ("batch", "group"):
            raise ConfigError(f"lenet: norm={self.norm!r} is unknown (batch, group).")
        if min(x.shape[1:3]) < 2**self.depth:
            raise ConfigError(f"lenet: depth={self.depth} halves sides of {x.shape[1]} and {x.shape[2]} to nothing: take a smaller one.")
        image = x.ndim == 4
        rows, present = masks_of(x, None if image else valid, present)
        x = zero_where_not(rows, x if image else x[..., None]).astype(self.dtype)
        stages = []
        for i in range(self.depth):
            size = 5 if i == 0 else 3
            conv = nn.Conv(
                self.width * 2**i,
                (size, size),
                padding=size // 2,
                use_bias=False,
                kernel_init=nn.initializers.he_uniform(),
                dtype=self.dtype,
                name=f"conv_{i}",
            )
            # Zeros where nothing is valid are the least that ReLU gives, and so never a largest value that is not there.
            x = nn.relu(Norm(self.norm, self.dtype, name=f"norm_{i}")(conv(x), rows, train=train))
            x = nn.max_pool(x, (2, 2), (2, 2))
            pairs = rearrange(rows[:, : rows.shape[1] // 2 * 2], "b (t s) -> b t s", s=2)
            rows = pairs.all(axis=2).at[:, 0].set(pairs[:, 0].any(axis=1))
            x = zero_where_not(rows, x)
            stages.append(rearrange(x, "b h w c -> b (h w) c") if image else x.mean(axis=2))
        tokens = stages[-1]
        if image:
            rows = jnp.broadcast_to(present[:, None], tokens.shape[:2])
        times = None if image else token_times(rows, 2**self.depth, self.rate)
        return Encoding(tokens, rows, masked_mean(tokens, rows), present, times, tuple(stages))

    @classmethod
    def tiny(cls) -> tuple[LeNet, dict[str, np.ndarray]]:
        """A small instance with batch statistics, and spectrograms of ragged lengths for it."""
        rng = np.random.default_rng(0)
        valid = np.arange(13) < np.array([13, 6, 3, 9])[:, None]
        return cls(width=4, depth=2, rate=100.0), {"audio": rng.normal(size=(4, 13, 6)).astype(np.float32), "audio/valid": valid}
