"""Cross-attention: the tokens of a main modality attend to those of all others.

Each layer is one direction of ViLBERT's pair (Lu et al., 2019, 'ViLBERT: Pretraining Task-Agnostic Visiolinguistic
Representations', fig. 2b): a block whose keys and values are the others' tokens, then a block over the main
modality's own; LXMERT (Tan & Bansal, 2019, sec. 2.2) has the same order. Norms come before the layers here, not
after. A class token goes before the main modality's and is the pooled vector, so that rows without the main modality
have one, too. Takes any number of modalities. Gaps: left out, the main modality, too. Time: unaligned tokens. Cost:
N_main x N_all a layer. When one modality is asked about and the others are evidence, as a question is about an
image.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import LearnedTokens, concatenated, main_of, projected
from mmjax.nn.transformer import Block, Dtype
from mmjax.ops.masks import presence


class CrossAttention(nn.Module):
    """Tokens are the class token and those of `main`."""

    main: str | None = None  # the first by name
    width: int = 256
    depth: int = 2
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        main_name = main_of(self.main, encodings)
        parts = projected(encodings, self.width, self.dtype)
        present = presence(encodings).any(axis=1)
        class_token = LearnedTokens(1, self.width, self.dtype, name="class_token")(len(present))
        x, valid = concatenated([class_token, parts.pop(main_name)])
        for i in range(self.depth):
            cross, own = (Block(self.heads, self.mlp_ratio, False, self.dropout, self.dtype, name=f"{n}_{i:02d}") for n in ("cross", "own"))
            if parts:
                context, context_valid = concatenated(parts.values())
                x = cross(x, context_valid, context, train=train)
            x = own(x, valid, train=train)
        x = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm")(x)
        return Encoding(x, valid & present[:, None], x[:, 0], present)

    @classmethod
    def tiny(cls) -> tuple[CrossAttention, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(main="text", width=8, depth=1, heads=2), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
