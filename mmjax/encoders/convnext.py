"""ConvNeXt: Liu et al., 2022, 'A ConvNet for the 2020s', sec. 2 and fig. 4.

A convolution of 7 x 7 a channel, a norm, an MLP; no batch statistics. `variant="T"` (tiny), "S", "B", "L" are published sizes.
LayerScale (its eq. follows Touvron et al., 2021) is left out: in a trained model it is part of the MLP's last layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Shaped

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.transformer import Dtype, Mlp
from mmjax.ops.masks import zero_where_not


class ConvNeXt(nn.Module):
    """Images [B, H, W, C] to the last stage's positions as tokens and their normalised mean, [B, widths[-1]].

    The image's sides should be at least 32; of what 32 does not divide, the rest is left out, as published.
    """

    widths: Sequence[int] = (96, 192, 384, 768)
    depths: Sequence[int] = (3, 3, 9, 3)
    dtype: Dtype = "float32"

    variants = {
        "T": {},
        "S": {"depths": (3, 3, 27, 3)},
        "B": {"widths": (128, 256, 512, 1024), "depths": (3, 3, 27, 3)},
        "L": {"widths": (192, 384, 768, 1536), "depths": (3, 3, 27, 3)},
    }

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        valid: Shaped[Array, "..."] | None = None,
        present: Bool[Array, " B"] | None = None,
        *,
        train: bool,
    ) -> Encoding:
        if len(self.widths) != len(self.depths):
            raise ConfigError(f"convnext: widths={tuple(self.widths)} and depths={tuple(self.depths)} should be as many.")
        if min(x.shape[1:3]) < (least := 4 * 2 ** (len(self.widths) - 1)):
            raise ConfigError(f"convnext: an image of {x.shape[1]} x {x.shape[2]} is smaller than the {least} of one token.")
        present = jnp.ones(x.shape[0], bool) if present is None else present
        x = zero_where_not(present, x).astype(self.dtype)
        stages = []
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            norm = nn.LayerNorm(1e-6, dtype=self.dtype, name=f"stage_{stage}_norm")
            x = norm(x) if stage else x
            size = 2 if stage else 4
            x = nn.Conv(width, (size, size), strides=size, padding="VALID", dtype=self.dtype, name=f"stage_{stage}_conv")(x)
            x = x if stage else norm(x)
            for i in range(depth):
                name = f"stage_{stage}_block_{i:02d}"
                y = nn.Conv(width, (7, 7), padding=3, feature_group_count=width, dtype=self.dtype, name=f"{name}_depthwise")(x)
                y = nn.LayerNorm(1e-6, dtype=self.dtype, name=f"{name}_norm")(y)
                x = x + Mlp(4.0, 0.0, self.dtype, "gelu_exact", name=f"{name}_mlp")(y, train=train)
            stages.append(rearrange(x, "b h w c -> b (h w) c"))
        tokens = stages[-1]
        pooled = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm")(tokens.mean(axis=1))
        return Encoding(tokens, jnp.broadcast_to(present[:, None], tokens.shape[:2]), pooled, present, stages=tuple(stages))

    @classmethod
    def tiny(cls) -> tuple[ConvNeXt, dict[str, np.ndarray]]:
        """A small instance, and a batch for it."""
        image = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
        return cls(widths=(4, 8), depths=(1, 1)), {"image": image}
