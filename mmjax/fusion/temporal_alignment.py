"""Aligned fusion: modalities resampled at common steps by their times, side by side at every step, and a transformer over the steps.

Chen et al., 2017, 'Multimodal Sentiment Analysis with Word-Level Fusion and Reinforcement Learning', average what is seen and heard
while a word is said: here the tokens nearest to it in time (`align="mean"`, `main="text"`). Without `main` the steps are even.
Interpolation, a kernel of learned width and learned attention over time (Shukla & Marlin, 2021, 'Multi-Time Attention Networks for
Irregularly Sampled Time Series', eq. 1-4) are the other ways. A transformer takes the place of the papers' recurrent networks, which
`mfn` and `rmfn` have. Takes any number of modalities. Gaps: zeros stand in. Time: aligned by the tokens' times, and evenly in their
order where there are none. Cost: steps x tokens to align, then a transformer over `steps` tokens, whatever the number of
modalities. When what happens at the same time belongs together, and the streams are of different rates.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.alignment import Alignment
from mmjax.nn.positions import Positions
from mmjax.nn.transformer import Dtype, Transformer
from mmjax.ops.masks import masked_mean


class TemporalAlignment(nn.Module):
    """Tokens are the steps [B, steps, width], or one for each of `main`'s, and pooled is their mean."""

    width: int = 256
    depth: int = 2
    heads: int = 4
    align: str = "linear"  # or "mean", "kernel", "attention"
    steps: int = 16
    main: str | None = None  # whose tokens are the steps
    align_heads: int = 1  # of "attention"
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    variants = {"word_level": {"align": "mean", "main": "text"}, "mtan": {"align": "attention", "align_heads": 4}}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        steps = Alignment(self.align, self.steps, self.main, self.align_heads, self.dtype, name="alignment")(encodings)
        x = nn.Dense(self.width, dtype=self.dtype, name="in")(steps.features())
        x = Positions("sincos", "fusion", name="positions")(x)
        transformer = Transformer(self.depth, self.heads, self.mlp_ratio, False, self.dropout, self.dtype, name="transformer")
        x, _ = transformer(x, steps.valid, train=train)
        return Encoding(x, steps.valid, masked_mean(x, steps.valid), steps.valid.any(axis=1), steps.time)

    @classmethod
    def tiny(cls) -> tuple[TemporalAlignment, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8, depth=1, heads=2, align="kernel", steps=3), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
