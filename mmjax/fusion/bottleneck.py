"""Bottleneck transformer (MBT): Nagrani et al., 2021, 'Attention Bottlenecks for Multimodal Fusion', sec. 3.2-3.4.

A transformer for each modality; from layer `fusion_layer` on, a few bottleneck tokens are in every one of them. Each
modality updates them for itself (eq. 8) and the updates are averaged (eq. 9), over the modalities that are there: a
row that lacks one gives what it would give without it. Class tokens are averaged at the end (sec. 3.4). Takes any
number of modalities. Gaps: left out. Time: unaligned tokens. Cost: sum of (N + bottlenecks)^2 a layer, hardly more
than late fusion. The first choice for long token sequences.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import LearnedTokens, concatenated, projected
from mmjax.nn.transformer import Block, Dtype
from mmjax.ops.masks import masked_mean, presence


class Bottleneck(nn.Module):
    """Tokens are, modality by modality, a class token and the modality's own.

    `fusion_layer` is L_f, counted in the `depth` layers of this module: 0 fuses in all of them. With `stage` the
    modalities enter as they left that block of their encoders (-3: before its last two) instead of as finished
    tokens: the encoders' lower layers are then the ones before the fusion, whatever is above is not used.
    """

    width: int = 256
    depth: int = 4
    fusion_layer: int = 0
    bottlenecks: int = 4
    stage: int | None = None
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if not 0 <= self.fusion_layer < self.depth:
            raise ConfigError(f"bottleneck: fusion_layer={self.fusion_layer} is not among the layers 0 to {self.depth - 1}.")
        present = presence(encodings)
        rows, streams = len(present), {}
        for m, part in projected(encodings, self.width, self.dtype, self.stage).items():
            class_token = LearnedTokens(1, self.width, self.dtype, name=f"{m}_class_token")(rows)
            streams[m] = concatenated([class_token, part])
        shared, shared_valid = LearnedTokens(self.bottlenecks, self.width, self.dtype, name="bottlenecks")(rows)

        for i in range(self.depth):
            updates = []
            for m, (x, valid) in streams.items():
                block = Block(self.heads, self.mlp_ratio, False, self.dropout, self.dtype, name=f"{m}_block_{i:02d}")
                if i < self.fusion_layer:
                    streams[m] = block(x, valid, train=train), valid
                else:
                    both = block(*concatenated([(x, valid), (shared, shared_valid)]), train=train)
                    streams[m] = both[:, : x.shape[1]], valid
                    updates.append(both[:, x.shape[1] :])
            if updates:
                mean = masked_mean(jnp.stack([x.reshape(rows, -1) for x in updates], axis=1), present)  # eq. 9
                shared = mean.reshape(shared.shape)

        norm = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm")
        streams = {m: (norm(x), valid & encodings[m].present[:, None]) for m, (x, valid) in streams.items()}
        pooled = masked_mean(jnp.stack([x[:, 0] for x, _ in streams.values()], axis=1), present)
        return Encoding(*concatenated(streams.values()), pooled, present.any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[Bottleneck, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=8, depth=2, bottlenecks=2, stage=0, heads=2), tiny_tokens(audio=(5, 6), text=(3, 4))
