"""Token fusion (TokenFusion): Wang et al., 2022, 'Multimodal Token Fusion for Vision Transformers', sec. 3.

A transformer for each modality. Before each of its blocks a small network says of every token how much it matters, from 0 to 1;
tokens are scaled by it, which is how it learns, and those below `threshold` are replaced by what the other modalities have at the same
place, projected. Each token's position is added after that, in every block, so that what comes from elsewhere stands where it is put
(residual positional alignment). `aux` has "token_sparsity", the sum of all scores of a row: the objective `auxiliary` brings it in,
with a weight like the 1e-4 of the published code. Without it few tokens are replaced.

As in the published code what is put in is scaled by the other modality's own score, and a modality has one scoring network for all
blocks. Among more than two modalities, a token becomes the mean of all others' at its place, where the paper draws one of them
beforehand for each place, who might be absent. Positions are fixed sines, not learned. Streams end in the mean of their tokens,
and these are averaged. Takes any number of modalities. Gaps: left out. Time: replacement is by the tokens nearest, by time where both
have one and else by place. Cost: one transformer a modality, M (M - 1) projections a block. For modalities that show the same scene
with parts of it blind: dark, out of sight, out of range.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.positions import sincos_1d
from mmjax.nn.tokens import concatenated, projected, stage_time
from mmjax.nn.transformer import Block, Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not
from mmjax.ops.places import shares


class Score(nn.Module):
    """How much each token matters: an MLP, and the softmax of two outputs as the sigmoid of their difference."""

    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N"]:
        width = x.shape[-1]
        x = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm")(x)
        for i in range(3):
            x = nn.gelu(nn.Dense(max(width >> i, 1), dtype=self.dtype, name=f"dense_{i}")(x), approximate=False)
        return nn.sigmoid(nn.Dense(1, dtype=self.dtype, name="out")(x)[..., 0].astype(jnp.float32))


class TokenFusion(nn.Module):
    """Tokens are all streams'. With `stage` they enter as they left that block of their encoders, as in `bottleneck`."""

    width: int = 256
    depth: int = 4
    threshold: float = 0.02
    stage: int | None = None
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"token_fusion: threshold={self.threshold} should be from 0 to 1, as scores are.")
        encodings, present = zero_absent(encodings), presence(encodings)
        parts = projected(encodings, self.width, self.dtype, self.stage)
        streams, valid = ({m: part[i] for m, part in parts.items()} for i in range(2))
        time = {m: stage_time(e, self.stage) for m, e in encodings.items()}
        share = {(m, n): shares(valid[m], valid[n], time[m], time[n]).astype(self.dtype) for m in streams for n in streams if m != n}
        scoring = {m: Score(self.dtype, name=f"{m}_score") for m in streams}
        sparsity = jnp.zeros(len(present), jnp.float32)
        for i in range(self.depth):
            score = {m: scoring[m](x) for m, x in streams.items()}
            kept = {m: score[m][:, :, None].astype(x.dtype) * x for m, x in streams.items()}
            for m, x in kept.items():
                sparsity = sparsity + zero_where_not(valid[m], score[m]).sum(axis=1)
                taken, some = jnp.zeros_like(x), jnp.zeros((*x.shape[:2], 1), x.dtype)
                for n in (n for n in streams if n != m):
                    found = jnp.einsum("bnk,bkd->bnd", share[m, n], kept[n])
                    here = share[m, n].any(axis=2)
                    taken += zero_where_not(here, nn.Dense(self.width, dtype=self.dtype, name=f"{n}_to_{m}_{i:02d}")(found))
                    some += here[:, :, None].astype(x.dtype)
                small = (score[m] < self.threshold)[:, :, None]
                x = jnp.where(small & (some > 0), taken / jnp.maximum(some, 1), x)
                x = x + jnp.asarray(sincos_1d(*x.shape[1:]), x.dtype)[None]
                block = Block(self.heads, self.mlp_ratio, False, self.dropout, self.dtype, name=f"{m}_block_{i:02d}")
                streams[m] = block(x, valid[m], train=train)

        norm = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm")
        streams = {m: norm(x) for m, x in streams.items()}
        means = jnp.stack([masked_mean(x, valid[m]) for m, x in streams.items()], axis=1)
        tokens = concatenated((x, valid[m]) for m, x in streams.items())
        return Encoding(*tokens, masked_mean(means, present), present.any(axis=1), aux={"token_sparsity": sparsity})

    @classmethod
    def tiny(cls) -> tuple[TokenFusion, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=8, depth=1, threshold=0.52, stage=-1, heads=2), tiny_tokens(audio=(5, 6), text=(3, 4))
