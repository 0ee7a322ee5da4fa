"""Early fusion: one transformer over the tokens of all modalities.

Single-stream, as ViLT (Kim et al., 2021, 'ViLT: Vision-and-Language Transformer Without Convolution or Region
Supervision', sec. 3.1, eq. 1-5): a class token and all tokens, each with an embedding of its modality, in a pre-norm
transformer. Positions are the encoders' matter. Takes any number of modalities. Gaps: left out. Time: unaligned
tokens. Cost: (sum of N)^2 a layer, the dearest here. The strongest mixing, when the sequences are short and data is
plenty.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import LearnedTokens, concatenated, projected
from mmjax.nn.transformer import Dtype, Transformer
from mmjax.ops.masks import presence


class EarlyTransformer(nn.Module):
    """Tokens are the class token, which is the pooled vector, and those of all modalities sorted by name."""

    width: int = 256
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        present = presence(encodings).any(axis=1)
        class_token = LearnedTokens(1, self.width, self.dtype, name="class_token")(len(present))
        x, valid = concatenated([class_token, *projected(encodings, self.width, self.dtype).values()])
        transformer = Transformer(self.depth, self.heads, self.mlp_ratio, dropout=self.dropout, dtype=self.dtype, name="transformer")
        x, stages = transformer(x, valid, train=train)
        return Encoding(x, valid & present[:, None], x[:, 0], present, stages=stages)

    @classmethod
    def tiny(cls) -> tuple[EarlyTransformer, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(width=8, depth=1, heads=2), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
