"""Shared weights (VATT): Akbari et al., 2021, 'VATT: Transformers for Multimodal Self-Supervised Learning', sec. 3.

One transformer for all modalities, which sees them one at a time: only the dense layer before it, and a class token, are a modality's
own (the paper's modality-agnostic backbone). What its class tokens say is averaged over the modalities that are there, which share
a space since they share the weights; the paper compares them instead. Takes any number of modalities. Gaps: left out. Time:
unaligned tokens. Cost: the arithmetic of `late_transformer` with the parameters of one transformer. For few parameters, modalities
that are much alike (views, sensors), or a pretrained transformer for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import LearnedTokens, concatenated, projected
from mmjax.nn.transformer import Dtype, Transformer
from mmjax.ops.masks import masked_mean, presence


class SharedTransformer(nn.Module):
    """Tokens are, modality by modality, a class token and the modality's own."""

    width: int = 256
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        transformer = Transformer(self.depth, self.heads, self.mlp_ratio, dropout=self.dropout, dtype=self.dtype, name="transformer")
        streams, said = [], []
        for m, part in projected(encodings, self.width, self.dtype).items():
            present = encodings[m].present
            class_token = LearnedTokens(1, self.width, self.dtype, name=f"{m}_class_token")(len(present))
            x, valid = concatenated([class_token, part])
            x, _ = transformer(x, valid, train=train)
            streams.append((x, valid & present[:, None]))
            said.append(x[:, 0])
        here = presence(encodings)
        return Encoding(*concatenated(streams), masked_mean(jnp.stack(said, axis=1), here), here.any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[SharedTransformer, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=8, depth=1, heads=2), tiny_tokens(audio=(5, 6), text=(3, 4))
