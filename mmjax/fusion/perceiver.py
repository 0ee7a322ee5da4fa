"""Perceiver: Jaegle et al., 2021, 'Perceiver: General Perception with Iterative Attention', sec. 3.1.

A few latents read all tokens by cross-attention, work on what they read in a transformer of their own, and read
again. With `share`, the steps after the first share their weights. Order plays no part: positions are the encoders'
matter. Takes any number of modalities. Gaps: left out. Time: unaligned tokens. Cost: latents x (sum of N) a step,
linear in the number of tokens. For many tokens, or many modalities.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import LearnedTokens, concatenated, projected
from mmjax.nn.transformer import Block, Dtype
from mmjax.ops.masks import presence


class Perceiver(nn.Module):
    """Tokens are the latents; pooled is their mean. `depth` is that of the latent transformer in each of `steps`."""

    latents: int = 32
    width: int = 256
    steps: int = 2
    depth: int = 2
    share: bool = False
    heads: int = 4
    cross_heads: int = 1
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        present = presence(encodings).any(axis=1)
        context, valid = concatenated(projected(encodings, self.width, self.dtype).values())
        x, _ = LearnedTokens(self.latents, self.width, self.dtype, name="latents")(len(present))

        def block(heads, name):
            return Block(heads, self.mlp_ratio, False, self.dropout, self.dtype, name=name)

        steps = []
        for i in range(min(self.steps, 2) if self.share else self.steps):
            latent = [block(self.heads, f"latent_{i:02d}_{j:02d}") for j in range(self.depth)]
            steps.append((block(self.cross_heads, f"cross_{i:02d}"), latent))
        for i in range(self.steps):
            cross, latent = steps[min(i, len(steps) - 1)]
            x = cross(x, valid, context, train=train)
            for own in latent:
                x = own(x, train=train)
        x = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm")(x)
        return Encoding(x, jnp.broadcast_to(present[:, None], x.shape[:2]), x.mean(axis=1), present)

    @classmethod
    def tiny(cls) -> tuple[Perceiver, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(latents=3, width=8, steps=1, depth=1, heads=2), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
