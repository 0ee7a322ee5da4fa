"""Mixture of experts (LIMoE): Mustafa et al., 2022, 'Multimodal Contrastive Learning with LIMoE: the Language-Image Mixture of Experts'.

One transformer over the tokens of all modalities, in which the MLP of every second block is sparse: a router that all modalities
share sends each token to a few of the experts (`Experts` in mmjax/nn/experts.py: Shazeer et al., 2017; GShard; Switch), so that
experts may divide modalities between them. As in `early_transformer` a token attends to all modalities; in the paper, which aligns
them, to its own only. What is absent is routed nowhere: it takes no place of an expert, and is not counted in `aux/balance`, Switch's
loss for an even use of experts, which compares the tokens of a batch: in training only, 0 in evaluation, and of each micro-batch
where gradients are accumulated. Weigh it by about 0.01. The entropy losses of the paper are left out. Takes any number of modalities.
Gaps: left out, but for tokens over an expert's capacity. Time: unaligned tokens. Cost: that of `early_transformer` with MLPs of
`chosen` times the width, for `experts` times the parameters. For many examples, where modalities need more parameters than time.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.experts import Experts
from mmjax.nn.tokens import concatenated, projected
from mmjax.nn.transformer import Attention, Block, Dtype
from mmjax.ops.masks import masked_mean, presence, zero_where_not


class ExpertBlock(nn.Module):
    """A pre-norm block with experts for its MLP, and their loss of balance."""

    heads: int
    experts: Experts
    dropout: float
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"], *, train: bool
    ) -> tuple[Float[Array, "B N D"], Float[Array, ""]]:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        y = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm_1")(x)
        x = x + drop(Attention(self.heads, dtype=self.dtype, name="attention")(y, valid=valid))
        y, balance = self.experts.copy(name="experts")(nn.LayerNorm(1e-6, dtype=self.dtype, name="norm_2")(x), valid)
        return x + drop(y), balance


class MixtureOfExperts(nn.Module):
    """Tokens are those of all modalities, pooled is their mean. Blocks `every` - 1, 2 * `every` - 1, ... of `depth` are sparse."""

    width: int = 256
    depth: int = 4
    every: int = 2
    experts: int = 8
    chosen: int = 2
    capacity: float | None = 2.0
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if not 1 <= self.every <= self.depth:
            raise ConfigError(f"mixture_of_experts: every={self.every} is not between 1 and depth={self.depth}: no block has experts.")
        x, valid = concatenated(projected(encodings, self.width, self.dtype).values())
        losses = []
        for i in range(self.depth):
            if i % self.every < self.every - 1:
                block = Block(self.heads, self.mlp_ratio, False, self.dropout, self.dtype, name=f"block_{i:02d}")
                x = block(x, valid, train=train)
            else:
                experts = Experts(self.experts, self.chosen, self.mlp_ratio, self.capacity, self.dtype)
                x, balance = ExpertBlock(self.heads, experts, self.dropout, self.dtype, name=f"block_{i:02d}")(x, valid, train=train)
                losses.append(balance)
        x = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm")(x)
        here = presence(encodings).any(axis=1)
        balance = jnp.stack(losses).mean() if train else jnp.zeros(())
        aux = {"balance": zero_where_not(here, jnp.broadcast_to(balance, here.shape))}
        return Encoding(x, valid, masked_mean(x, valid), here, aux=aux)

    @classmethod
    def tiny(cls) -> tuple[MixtureOfExperts, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        tokens = tiny_tokens(audio=(5, 6), text=(3, 4))
        return cls(width=8, depth=1, every=1, experts=3, capacity=None, heads=2, mlp_ratio=1.0), tokens
