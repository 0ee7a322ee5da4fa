"""Dense multimodal fusion (DMF): Hu et al., 2019, 'Dense Multimodal Fusion for Hierarchically Joint Representation'.

A shared layer on each level of the modality-specific networks: it takes that level of every modality and the shared
layer below it, so that correlations on every level have a path to the top. The levels are the encoders' stages, each
averaged over its valid tokens, and the pooled vector above them. Each is normalised first, which the paper, with its
bounded units, did not need. Takes any number of modalities. Gaps: zeros stand in. Time: one vector a level and
modality. Cost: one dense layer a level and modality. When what the modalities share is partly low-level, or the
encoders are frozen and their top layer is not the best.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import stage_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not


class Dense(nn.Module):
    """The last `levels` levels; a modality with fewer joins from where its lowest stands. The top shared layer is the pooled vector."""

    width: int = 256
    levels: int | None = None  # as many as the encoder with most stages gives
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        most = max(len(e.stages) for e in encodings.values())
        levels = most + 1 if self.levels is None else self.levels
        if not 1 <= levels <= most + 1:
            raise ConfigError(
                f"dense: levels={levels} should be 1 to {most + 1}: the encoders give up to {most} stages, and a pooled vector."
            )
        encodings = zero_absent(encodings)
        shared = []
        for level in range(levels, 0, -1):  # 1 is the top: the pooled vector
            inputs = shared
            for m, e in encodings.items():
                if level <= len(e.stages) + 1:
                    x = e.pooled if level == 1 else masked_mean(*stage_tokens(e, 1 - level, m))
                    x = nn.LayerNorm(dtype=self.dtype, name=f"{m}_norm_{level}")(x)
                    inputs = [*inputs, zero_where_not(e.present, x)]
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name=f"shared_{level}")(jnp.concatenate(inputs, axis=-1)))
            shared = [nn.Dropout(self.dropout, deterministic=not train)(x)]
        return Encoding.from_pooled(shared[0], presence(encodings).any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[Dense, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8, levels=3), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
