"""Transformer over patches of a time series: Nie et al., 2023, 'A Time Series is Worth 64 Words' (PatchTST), sec. 3.1.

As in their self-supervised variant patches do not overlap; unlike theirs a patch holds all channels, as in a vision
transformer (Dosovitskiy et al., 2021), so that one pass sees how they move together. `variant="imagebind"` is ImageBind's for
inertial measurements (Girdhar et al., 2023): six channels, 2,000 steps.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.positions import KINDS, Positions
from mmjax.nn.tokens import LearnedTokens, concatenated
from mmjax.nn.transformer import SIZES, AttentionPool, Dtype, Transformer
from mmjax.ops.masks import masked_mean, masks_of, token_times, valid_strides, zero_where_not

IMAGEBIND = {"pool": "class", "positions": "learned", "patch_norm": True, "bias_kv": True, "activation": "gelu_exact"}


class SeriesTransformer(nn.Module):
    """Series [B, T, C] to a token for every `patch` steps (behind the class token) and a pooled vector [B, width].

    A token is valid if one of its steps is; its other steps are 0. Learned positions take no series with more patches
    than they were initialised with.
    """

    patch: int = 8
    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    pool: str = "mean"  # or "class", "attention"
    positions: str = "sincos"  # for any length; or "learned"
    patch_norm: bool = False  # a norm behind the patches' layer, which has no bias then
    bias_kv: bool = False  # of `nn/transformer.py`'s `Attention`
    causal: bool = False  # a token sees no later one
    dropout: float = 0.0
    rate: float | None = None  # steps a second: with it the tokens have times, unless there is a class token
    dtype: Dtype = "float32"
    activation: str = "gelu"  # of `nn/transformer.py`
    norm_epsilon: float = 1e-6
    remat: bool | str = False  # less memory for more time, by a policy of `nn/transformer.py`
    scan: bool = False  # one program for all blocks, of `nn/transformer.py`

    variants = {**SIZES, "imagebind": {"width": 512, "depth": 6, "heads": 8, **IMAGEBIND}}

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T C"], valid: Bool[Array, "B T"] | None = None, present: Bool[Array, " B"] | None = None, *, train: bool
    ) -> Encoding:
        for key, known in {"pool": ("mean", "class", "attention"), "positions": KINDS}.items():
            if getattr(self, key) not in known:
                raise ConfigError(f"series_transformer: {key}={getattr(self, key)!r} is unknown ({', '.join(known)}).")
        if self.causal and self.pool == "class":
            raise ConfigError("series_transformer: with causal=True the first token sees nothing; pool='class' needs causal=False.")
        valid, present = masks_of(x, valid, present)
        x = zero_where_not(valid, x).astype(self.dtype)
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % self.patch), (0, 0)))
        valid = valid_strides(valid, self.patch)
        time = token_times(valid, self.patch, self.rate)

        x = rearrange(x, "b (n p) c -> b n (p c)", p=self.patch)
        x = nn.Dense(self.width, use_bias=not self.patch_norm, dtype=self.dtype, name="embedding")(x)
        x = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm_patches")(x) if self.patch_norm else x
        x = Positions(self.positions, "series_transformer", name="positions")(x)
        if self.pool == "class":
            token, _ = LearnedTokens(1, self.width, self.dtype, name="class_token")(len(x))
            (x, valid), time = concatenated([(token, present[:, None]), (x, valid)]), None
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x, stages = Transformer(
            self.depth,
            self.heads,
            self.mlp_ratio,
            self.causal,
            self.dropout,
            self.dtype,
            self.activation,
            self.norm_epsilon,
            self.remat,
            bias_kv=self.bias_kv,
            scan=self.scan,
            name="transformer",
        )(x, valid, train=train)
        if self.pool == "class":
            pooled = x[:, 0]
        elif self.pool == "mean":
            pooled = masked_mean(x, valid)
        else:
            pooled = AttentionPool(self.heads, self.mlp_ratio, self.dtype, name="pool")(x, valid, train=train)
        return Encoding(x, valid, pooled, present, time, stages)

    @classmethod
    def tiny(cls) -> tuple[SeriesTransformer, dict[str, np.ndarray]]:
        """A small instance with learned positions, and a batch of ragged lengths for it."""
        valid = np.arange(10) < np.array([10, 5, 2, 7])[:, None]
        series = np.random.default_rng(0).normal(size=(4, 10, 3)).astype(np.float32)
        more = {"positions": "learned", "pool": "attention", "rate": 50.0, "patch_norm": True, "bias_kv": True}
        return cls(patch=4, width=16, depth=2, heads=2, **more), {"series": series, "series/valid": valid}
