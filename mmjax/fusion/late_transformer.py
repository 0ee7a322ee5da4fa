"""Late fusion: a transformer for each modality, and their class tokens concatenated at the end.

The late-fusion baseline of Nagrani et al., 2021, 'Attention Bottlenecks for Multimodal Fusion' (sec. 3.3 with L_f = L),
with a dense layer over the concatenation in place of their averaged logits (those are `decision`). Takes any number of
modalities. Gaps: zeros stand in. Time: unaligned tokens. Cost: sum of N^2 a layer. When the encoders are frozen or
shallow and little is to be learned between modalities; the baseline that any token-level fusion should beat.
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
from mmjax.ops.masks import presence, zero_where_not


class LateTransformer(nn.Module):
    """Tokens are, modality by modality, a class token and the modality's own."""

    width: int = 256
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        streams, pooled = [], []
        for m, part in projected(encodings, self.width, self.dtype).items():
            present = encodings[m].present
            class_token = LearnedTokens(1, self.width, self.dtype, name=f"{m}_class_token")(len(present))
            x, valid = concatenated([class_token, part])
            transformer = Transformer(
                self.depth, self.heads, self.mlp_ratio, dropout=self.dropout, dtype=self.dtype, name=f"{m}_transformer"
            )
            x, _ = transformer(x, valid, train=train)
            streams.append((x, valid & present[:, None]))
            pooled.append(zero_where_not(present, x[:, 0]))
        fused = nn.Dense(self.width, dtype=self.dtype, name="out")(jnp.concatenate(pooled, axis=-1))
        return Encoding(*concatenated(streams), fused, presence(encodings).any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[LateTransformer, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=8, depth=1, heads=2), tiny_tokens(audio=(5, 6), text=(3, 4))
