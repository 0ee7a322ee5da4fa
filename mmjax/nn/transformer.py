"""Pre-norm transformer blocks (Vaswani et al., 2017; pre-norm as in Xiong et al., 2020)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError

Dtype = str | jnp.dtype


class Attention(nn.Module):
    """Multi-head attention of `x` over `context` (itself by default), blind to positions that are not valid.

    A row without any valid position attends evenly: finite, and for the caller to mask.
    """

    heads: int
    causal: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        context: Float[Array, "B M E"] | None = None,
        valid: Bool[Array, "B M"] | None = None,
    ) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        if width % self.heads:
            raise ConfigError(f"A width of {width} does not split into {self.heads} heads.")
        context = x if context is None else context
        dense = partial(nn.Dense, width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform())
        split = partial(rearrange, pattern="b n (h d) -> b n h d", h=self.heads)
        attended = jax.nn.dot_product_attention(
            split(dense(name="query")(x)),
            split(dense(name="key")(context)),
            split(dense(name="value")(context)),
            mask=None if valid is None else valid[:, None, None, :],
            is_causal=self.causal,
        )
        return dense(name="out")(rearrange(attended, "b n h d -> b n (h d)"))


class Mlp(nn.Module):
    """Two dense layers with a tanh-approximated GELU between them."""

    ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"], *, train: bool) -> Float[Array, "*B D"]:
        width = x.shape[-1]
        init = nn.initializers
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=init.xavier_uniform(), bias_init=init.normal(1e-6))
        hidden = nn.gelu(dense(int(width * self.ratio), name="in")(x))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return dense(width, name="out")(hidden)


class Block(nn.Module):
    """Attention and MLP, each on the normalised stream and added back to it."""

    heads: int
    mlp_ratio: float = 4.0
    causal: bool = False
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"] | None = None, *, train: bool) -> Float[Array, "B N D"]:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        y = Attention(self.heads, self.causal, self.dtype, name="attention")(nn.LayerNorm(dtype=self.dtype, name="norm_1")(x), valid=valid)
        x = x + drop(y)
        y = Mlp(self.mlp_ratio, self.dropout, self.dtype, name="mlp")(nn.LayerNorm(dtype=self.dtype, name="norm_2")(x), train=train)
        return x + drop(y)


class Transformer(nn.Module):
    """`depth` blocks and a final norm. Returns the tokens and, lowest first, what each block gave."""

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    causal: bool = False
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"] | None = None, *, train: bool
    ) -> tuple[Float[Array, "B N D"], tuple[Float[Array, "B N D"], ...]]:
        stages = []
        for i in range(self.depth):
            x = Block(self.heads, self.mlp_ratio, self.causal, self.dropout, self.dtype, name=f"block_{i:02d}")(x, valid, train=train)
            stages.append(x)
        return nn.LayerNorm(dtype=self.dtype, name="norm")(x), tuple(stages)


class AttentionPool(nn.Module):
    """One learned query attends over the tokens, then a residual MLP: 'MAP', Zhai et al., 2022, 'Scaling Vision Transformers', sec. 3."""

    heads: int
    mlp_ratio: float = 4.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"] | None = None, *, train: bool) -> Float[Array, "B D"]:
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1]), jnp.float32)
        probe = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        y = Attention(self.heads, dtype=self.dtype, name="attention")(probe, x, valid)
        y = y + Mlp(self.mlp_ratio, dtype=self.dtype, name="mlp")(nn.LayerNorm(dtype=self.dtype, name="norm")(y), train=train)
        return y[:, 0]
