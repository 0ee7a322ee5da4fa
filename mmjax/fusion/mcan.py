"""Deep co-attention (MCAN): Yu et al., 2019, 'Deep Modular Co-Attention Networks for Visual Question Answering', sec. 3-4.

The main modality, the question, passes `depth` self-attention units (SA). Every other modality passes as many self- and guided-
attention units (SGA): attention to its own tokens, then to the question's, then an MLP. With `cascade="encoder_decoder"` the
question guides with what its last unit gives, with "stacking" unit by unit (sec. 3.2). Each modality's tokens are then reduced by an
attention that an MLP gives, and these vectors, each mapped on its own, are added and normalised (sec. 4). Norms come after the layers;
dropout is not on the attention weights.

The fused vector is as wide as the tokens, where the paper's is twice as wide. A row without a question has its other modalities
attend to themselves. Takes any number of modalities, one stream each. Gaps: left out, the main modality, too. Time: unaligned
tokens. Cost: N_m x (N_m + N_main) a modality and unit. For questions about another modality's tokens, when there is data enough for
a transformer; `stacking` was a little worse than the default in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import Tokens, concatenated, main_of, projected
from mmjax.nn.transformer import Attention, Dtype, Mlp
from mmjax.ops.masks import presence, zero_where_not

CASCADES = ("encoder_decoder", "stacking")
PUBLISHED = {"width": 512, "depth": 6, "heads": 8, "dropout": 0.1}


class Unit(nn.Module):
    """SA or, with a guide, SGA (fig. 2)."""

    heads: int
    mlp_ratio: float
    dropout: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"], guide: Tokens | None, *, train: bool) -> Float[Array, "B N D"]:
        def added(x, y, name):
            y = nn.Dropout(self.dropout, deterministic=not train)(y)
            return nn.LayerNorm(1e-6, dtype=self.dtype, name=name)(x + y)

        attention = partial(Attention, self.heads, dtype=self.dtype)
        x = added(x, attention(name="own")(x, x, valid), "norm_own")
        if guide is not None:
            found = attention(name="guided")(x, *guide)
            x = added(x, zero_where_not(guide[1].any(axis=1), found), "norm_guided")
        mlp = Mlp(self.mlp_ratio, self.dropout, self.dtype, "relu", name="mlp")
        return added(x, mlp(x, train=train), "norm_mlp")


class MCAN(nn.Module):
    """Tokens are all modalities' after their last units."""

    main: str | None = None  # who guides; the first by name
    width: int = 256
    depth: int = 4
    cascade: str = "encoder_decoder"
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    variants = {cascade: {**PUBLISHED, "cascade": cascade} for cascade in CASCADES}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.cascade not in CASCADES:
            raise ConfigError(f"fusion.cascade={self.cascade!r} is unknown.{nearest(self.cascade, CASCADES)}")
        main, present = main_of(self.main, encodings), presence(encodings).any(axis=1)
        streams = projected(encodings, self.width, self.dtype)
        unit = partial(Unit, self.heads, self.mlp_ratio, self.dropout, self.dtype)
        x, valid = streams[main]
        guides = []
        for i in range(self.depth):
            x = unit(name=f"{main}_unit_{i}")(x, valid, None, train=train)
            guides.append((x, valid))
        streams[main] = x, valid
        for m in (m for m in streams if m != main):
            x, valid = streams[m]
            for i in range(self.depth):
                guide = guides[i if self.cascade == "stacking" else -1]
                x = unit(name=f"{m}_unit_{i}")(x, valid, guide, train=train)
            streams[m] = x, valid

        fused = jnp.zeros((len(present), self.width), self.dtype)
        for m, (x, valid) in streams.items():
            hidden = nn.relu(nn.Dense(self.width, dtype=self.dtype, name=f"{m}_reduce_in")(x))
            hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
            score = nn.Dense(1, use_bias=False, dtype=self.dtype, name=f"{m}_reduce_out")(hidden)[..., 0]
            vector = jnp.einsum("bn,bnd->bd", jax.nn.softmax(score, axis=1, where=valid), x)  # attentional reduction
            vector = nn.Dense(self.width, dtype=self.dtype, name=f"{m}_out")(vector)
            fused = fused + zero_where_not(valid.any(axis=1), vector)
        fused = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm")(fused)
        return Encoding(*concatenated(streams.values()), zero_where_not(present, fused), present)

    @classmethod
    def tiny(cls) -> tuple[MCAN, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(main="text", width=8, depth=1, heads=2), tiny_tokens(audio=(5, 6), text=(3, 4))
