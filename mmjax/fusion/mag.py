"""Multimodal adaptation gate (MAG): Rahman et al., 2020, 'Integrating Multimodal Information in Large Pretrained Transformers', eq. 1-4.

Inside the main modality's transformer each token is moved by what the other modalities say at its place: a linear map of each of
them, times a gate that sees it and the token (eq. 1-3), scaled so that the shift is at most `beta` times as long as the token (eq.
4). Then come a norm, dropout and the layers above. These are blocks of this module, on what left the main encoder's block `stage`:
what the encoder has above that is not used. The maps' biases are behind the gates, as in the published code, so that an absent
modality moves nothing; eq. 3 has one bias after the gates. Others enter as finished tokens; one at a place is their mean.

In rows without the main modality one learned token stands in for it, which all tokens of the others move. Takes any number of
modalities. Gaps: left out; a learned token stands in for the main modality. Time: others' tokens to the main ones nearest, by time
where both have one and else by place. Cost: two dense layers a modality on the main tokens, and the blocks. When the main
modality, mostly text, is strong and pretrained, and how it is said or shown shifts what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import main_of, projected, stage_time, with_stand_in
from mmjax.nn.transformer import Dtype, Transformer
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not
from mmjax.ops.places import shares


def length(x: Float[Array, "*B D"]) -> Float[Array, "*B 1"]:
    """The norm of the last axis, in float32, at least 1e-6 and with a gradient of 0 there."""
    square = jnp.square(x.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    return jnp.sqrt(jnp.maximum(square, 1e-12))


class MAG(nn.Module):
    """Tokens are the main modality's and, last, the stand-in; pooled is their mean."""

    main: str | None = None  # the first by name
    stage: int | None = None  # the block of the main encoder behind which the gate is; None is its finished tokens
    width: int = 256
    depth: int = 2
    beta: float = 1.0  # longest shift, in lengths of the token
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if not self.beta > 0:
            raise ConfigError(f"mag: beta={self.beta} should be above 0: no shift is longer than beta times the token.")
        main, here = main_of(self.main, encodings), presence(encodings).any(axis=1)
        others = zero_absent(encodings)
        own = projected({main: others.pop(main)}, self.width, self.dtype, self.stage)[main]
        time = stage_time(encodings[main], self.stage)
        time = None if time is None else jnp.pad(zero_where_not(own[1], time), ((0, 0), (0, 1)))
        z, valid = with_stand_in(*own, here)

        dense, shift = partial(nn.Dense, self.width, dtype=self.dtype), jnp.zeros_like(z)
        for m, e in others.items():
            share = shares(valid, e.valid, time, e.time)
            tokens = jnp.einsum("bnm,bmd->bnd", share.astype(self.dtype), e.tokens.astype(self.dtype))
            gate = nn.relu(dense(name=f"{m}_gate")(jnp.concatenate([tokens, z], axis=-1)))  # eq. 1-2
            shift = shift + zero_where_not(share.any(axis=2), gate * dense(name=f"{m}_shift")(tokens))  # eq. 3
        scale = jnp.minimum(self.beta * length(z) / length(shift), 1.0)  # eq. 4
        z = nn.LayerNorm(1e-5, dtype=self.dtype, name="gate_norm")(z + scale.astype(shift.dtype) * shift)
        z = nn.Dropout(self.dropout, deterministic=not train)(z)
        blocks = Transformer(self.depth, self.heads, self.mlp_ratio, dropout=self.dropout, dtype=self.dtype, name="transformer")
        z, _ = blocks(z, valid, train=train)
        return Encoding(z, valid, masked_mean(z, valid), here)

    @classmethod
    def tiny(cls) -> tuple[MAG, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(main="text", stage=-1, width=8, depth=1, heads=2), tiny_tokens(audio=(5, 6), text=(3, 4))
