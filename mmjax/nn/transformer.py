"""Transformer blocks (Vaswani et al., 2017), pre-norm as in Xiong et al., 2020, unless asked otherwise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError, nearest
from mmjax.contract import BATCH_AXES
from mmjax.nn import fp8
from mmjax.ops.layout import axis_size, constrained
from mmjax.ops.masks import zero_where_not
from mmjax.ops.merge import matching, merge, most, places

Dtype = str | jnp.dtype

# Published sizes: Ti and S after Touvron et al., 2021, B to H after Dosovitskiy et al., 2021, table 1, g after Zhai et
# al., 2022, table 2, So400m after Alabdulmohsin et al., 2023, 'Getting ViT in Shape'.
SIZES: dict[str, dict[str, float]] = {
    "Ti": {"width": 192, "depth": 12, "heads": 3},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "H": {"width": 1280, "depth": 32, "heads": 16},
    "So400m": {"width": 1152, "depth": 27, "heads": 16, "mlp_ratio": 4304 / 1152},
    "g": {"width": 1408, "depth": 40, "heads": 16, "mlp_ratio": 6144 / 1408},
}


def quick_gelu(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The GELU that CLIP was trained with: Hendrycks & Gimpel, 2016, sec. 2, in its logistic form."""
    return x * nn.sigmoid(1.702 * x)


# What a rematerialised block keeps for the backward pass, by name: nothing (as with True), what its dense layers gave ("dots"), or
# what any of its products gave, attention's logits included ("all_dots").
REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "all_dots": jax.checkpoint_policies.dots_saveable,
}
ACTIVATIONS = {"gelu": nn.gelu, "gelu_exact": partial(nn.gelu, approximate=False), "quick_gelu": quick_gelu, "relu": nn.relu}


def _dots(eight: bool) -> Any:
    """What multiplies in a dense layer; None is its own."""
    return fp8.dot_general if eight else None


class Attention(nn.Module):
    """Multi-head attention of `x` over `context` (itself by default), blind to positions that are not valid.

    A row without any valid position attends evenly: finite, and for the caller to mask. `bias` is added to the logits. With `bias_kv`
    there is a learned key and value besides, always seen, as in PyTorch's `add_bias_kv`. `with_keys`: the mean of the heads' keys, too.
    """

    heads: int
    causal: bool = False
    dtype: Dtype = "float32"
    key_bias: bool = True  # of no consequence under softmax: whether there is one to count, and to load
    bias_kv: bool = False
    fp8: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        context: Float[Array, "B M E"] | None = None,
        valid: Bool[Array, "B M"] | None = None,
        bias: Float[Array, "#B #H #N M"] | None = None,
        *,
        with_keys: bool = False,
    ) -> Any:
        width = x.shape[-1]
        if width % self.heads:
            raise ConfigError(f"A width of {width} does not split into {self.heads} heads.")
        if self.heads % axis_size("tensor"):
            raise ConfigError(f"mesh: {self.heads} heads do not split over tensor={axis_size('tensor')}: take a divisor of {self.heads}.")
        context = x if context is None else context
        dense = partial(nn.Dense, width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), dot_general=_dots(self.fp8))
        split = partial(rearrange, pattern="b n (h d) -> b n h d", h=self.heads)
        query, key, value = dense(name="query")(x), dense(use_bias=self.key_bias, name="key")(context), dense(name="value")(context)
        keys = split(key).mean(axis=2) if with_keys else None
        if self.bias_kv:
            if self.causal:
                raise ConfigError("bias_kv=True stands behind all positions, where causal attention does not look: take one of the two.")
            key, value = self._besides("bias_key", key), self._besides("bias_value", value)
            bias = None if bias is None else jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, 1)))
            valid = None if valid is None else jnp.pad(valid, ((0, 0), (0, 1)), constant_values=True)
        mask = None if valid is None else valid[:, None, None, :]
        query = constrained(split(query), BATCH_AXES, "sequence", "tensor", None)  # every query sees the keys of the whole sequence
        key, value = (constrained(split(x), BATCH_AXES, None, "tensor", None) for x in (key, value))
        attended = jax.nn.dot_product_attention(query, key, value, bias, mask, is_causal=self.causal)
        found = dense(name="out")(rearrange(attended, "b n h d -> b n (h d)"))
        return (found, keys) if with_keys else found

    def _besides(self, name: str, x: Float[Array, "B M D"]) -> Float[Array, "B M+1 D"]:
        one = self.param(name, nn.initializers.normal(0.02), (1, 1, x.shape[-1]), jnp.float32)
        return jnp.concatenate([x, jnp.broadcast_to(one.astype(x.dtype), (len(x), 1, x.shape[-1]))], axis=1)


class Mlp(nn.Module):
    """Two dense layers with one of `ACTIVATIONS` between them; `gelu` is its tanh approximation."""

    ratio: float = 4.0
    dropout: float = 0.0
    dtype: Dtype = "float32"
    activation: str = "gelu"
    fp8: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"], *, train: bool) -> Float[Array, "*B D"]:
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation={self.activation!r} is unknown.{nearest(self.activation, ACTIVATIONS)}")
        width = x.shape[-1]
        init, dots = nn.initializers, _dots(self.fp8)
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=init.xavier_uniform(), bias_init=init.normal(1e-6), dot_general=dots)
        hidden = ACTIVATIONS[self.activation](dense(round(width * self.ratio), name="in")(x))
        hidden = constrained(hidden, BATCH_AXES, *(...,) * (hidden.ndim - 2), "tensor")
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return dense(width, name="out")(hidden)


class Block(nn.Module):
    """Attention and MLP, each on the normalised stream and added back to it; with `post_norm`, the sums are normalised instead.

    Given a `context`, the stream attends to that instead of itself, and `valid` is the context's; a row whose context
    has nothing valid gets nothing from it. `bias` is the attention's.

    With `merge` and a `size`, how many each token stands for, as many tokens become one with others between attention and MLP, the
    first `protected` never (Bolya et al., 2023, 'Token Merging', sec. 3): it then gives the tokens, their sizes, and where each went.
    """

    heads: int
    mlp_ratio: float = 4.0
    causal: bool = False
    dropout: float = 0.0
    dtype: Dtype = "float32"
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    post_norm: bool = False
    key_bias: bool = True
    bias_kv: bool = False
    merge: int = 0
    protected: int = 0
    fp8: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        valid: Bool[Array, "B M"] | None = None,
        context: Float[Array, "B M E"] | None = None,
        bias: Float[Array, "#B #H #N M"] | None = None,
        size: Float[Array, "B N"] | None = None,
        *,
        train: bool,
    ) -> Any:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        norm = partial(nn.LayerNorm, self.norm_epsilon, dtype=self.dtype)
        norm_1, norm_2 = norm(name="norm_1"), norm(name="norm_2")
        attention = Attention(self.heads, self.causal, self.dtype, self.key_bias, self.bias_kv, self.fp8, name="attention")
        mlp = Mlp(self.mlp_ratio, self.dropout, self.dtype, self.activation, self.fp8, name="mlp")

        if size is not None:
            return self._merged(x, size, norm_1, norm_2, attention, mlp, drop, train)
        seen = None if context is None else norm(name="norm_context")(context)
        y = attention(x if self.post_norm else norm_1(x), seen, valid, bias)
        if context is not None and valid is not None:
            y = zero_where_not(valid.any(axis=1), y)
        x = x + drop(y)
        if self.post_norm:
            x = norm_1(x)
            return norm_2(x + drop(mlp(x, train=train)))
        return x + drop(mlp(norm_2(x), train=train))

    def _merged(self, x, size, norm_1, norm_2, attention, mlp, drop, train: bool):
        y, keys = attention(norm_1(x), bias=sizes_bias(size, x.dtype), with_keys=True)
        x = x + drop(y)
        count = most(x.shape[1], self.merge, self.protected)
        if count > 0:
            how = matching(keys, count, self.protected)
            (x, size), went = merge(how, x, size), places(how)
        else:
            went = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        return x + drop(mlp(norm_2(x), train=train)), size, went


def sizes_bias(size: Float[Array, "B N"], dtype: Any) -> Float[Array, "B 1 1 N"]:
    """What makes attention see a token as often as it stands for one: 'proportional attention', Bolya et al., 2023, eq. 1."""
    return jnp.log(size)[:, None, None, :].astype(dtype)


class Transformer(nn.Module):
    """`depth` blocks and a final norm; with `post_norm`, that norm comes first. Returns the tokens and, lowest first, what each block gave.

    With `remat`, True or a name of `REMAT`, a block's inside is computed again in the backward pass instead of kept: a third more
    arithmetic for the memory of one block instead of all (Chen et al., 2016, 'Training Deep Nets with Sublinear Memory Cost').
    With `scan` the blocks are one program that runs `depth` times: it compiles in the time of one, for a second copy of the
    parameters, stacked, while it runs. Parameters and checkpoints are the same with and without; dropout draws others.
    With `merge` every block merges as many tokens, see `Block`; stages have all tokens all the same.
    """

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    causal: bool = False
    dropout: float = 0.0
    dtype: Dtype = "float32"
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    remat: bool | str = False
    post_norm: bool = False  # as in BERT (Devlin et al., 2019)
    key_bias: bool = True
    final_norm: bool = True
    bias_kv: bool = False  # of `Attention`
    scan: bool = False
    merge: int = 0
    protected: int = 0  # the first tokens, which are not merged
    fp8: bool = False  # dense layers multiply in 8 bits: see `nn/fp8.py`

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"] | None = None, *, train: bool) -> tuple[Any, ...]:
        """With `merge` there is a third: how many tokens each of those that are left stands for."""
        block = partial(
            Block,
            self.heads,
            self.mlp_ratio,
            self.causal,
            self.dropout,
            self.dtype,
            self.activation,
            self.norm_epsilon,
            self.post_norm,
            self.key_bias,
            self.bias_kv,
            self.merge,
            self.protected,
            self.fp8,
        )
        unfit = {
            "scan=True": self.scan,
            "post_norm=True": self.post_norm,
            "causal=True": self.causal,
            "tokens that are not valid": valid is not None,
        }
        if self.merge and any(unfit.values()):
            at = next(what for what, holds in unfit.items() if holds)
            raise ConfigError(f"merge={self.merge} does not go together with {at}: blocks would differ in what they need or see.")
        norm = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm") if self.final_norm else lambda x: x
        x = nn.Dropout(self.dropout, deterministic=not train)(norm(x)) if self.post_norm else x
        x = _tokens(x)
        if self.merge:
            x, stages, size = self._merging(block, x, train)
            return norm(x), stages, size
        if self.scan and not self.is_initializing():
            x, stages = self._scanned(block(parent=None), x, valid, train)
        else:
            run, stages = rematerialised(lambda block, x, valid: _tokens(block(x, valid, train=train)), self.remat, lift=nn.remat), []
            for i in range(self.depth):
                x = run(block(name=f"block_{i:02d}"), x, valid)
                stages.append(x)
        return x if self.post_norm else norm(x), tuple(stages)

    def _merging(self, block: Callable[..., Block], x: Float[Array, "B N D"], train: bool):
        """The blocks with fewer tokens from one to the next, and the stages with each token's own again."""
        run = rematerialised(lambda block, x, size: block(x, size=size, train=train), self.remat, lift=nn.remat)
        size, stages = jnp.ones(x.shape[:2], jnp.float32), []
        whole = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        for i in range(self.depth):
            x, size, went = run(block(name=f"block_{i:02d}"), x, size)
            x, whole = _tokens(x), jnp.take_along_axis(went, whole, axis=1)
            stages.append(jnp.take_along_axis(x, whole[:, :, None], axis=1))
        return x, tuple(stages), size

    def _scanned(self, block: Block, x: Float[Array, "B N D"], valid: Bool[Array, "B N"] | None, train: bool):
        """The blocks as one that is run with the parameters of each in turn."""
        layers = [self.get_variable("params", f"block_{i:02d}") for i in range(self.depth)]
        keys = jax.random.split(self.make_rng("dropout"), self.depth) if train and self.dropout else None

        def body(x, layer):
            params, key = layer
            found: Any = block.apply({"params": params}, x, valid, train=train, rngs={} if key is None else {"dropout": key})
            return (x := _tokens(found)), x

        body = rematerialised(body, self.remat, lift=partial(jax.checkpoint, prevent_cse=False))
        return jax.lax.scan(body, x, (jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers), keys))


def rematerialised(fn: Callable, remat: bool | str, lift: Callable) -> Callable:
    """`fn` whose inside is kept, or computed again, as `remat` says: True, False or a name of `REMAT`. `lift` makes it so."""
    if isinstance(remat, str) and remat not in REMAT:
        raise ConfigError(f"remat={remat!r} is unknown.{nearest(remat, REMAT)} Or True or False.")
    return lift(fn, policy=REMAT[remat if isinstance(remat, str) else "full"]) if remat else fn


def _tokens(x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    """What stands between the layers, where it lies: rows and tokens split, every token whole."""
    return constrained(x, BATCH_AXES, "sequence", None)


class AttentionPool(nn.Module):
    """One learned query attends over the tokens, then a residual MLP: 'MAP', Zhai et al., 2022, 'Scaling Vision Transformers', sec. 3."""

    heads: int
    mlp_ratio: float = 4.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        valid: Bool[Array, "B N"] | None = None,
        bias: Float[Array, "#B #H #M N"] | None = None,
        *,
        train: bool,
    ) -> Float[Array, "B D"]:
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1]), jnp.float32)
        probe = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        y = Attention(self.heads, dtype=self.dtype, name="attention")(probe, x, valid, bias)
        y = y + Mlp(self.mlp_ratio, dtype=self.dtype, name="mlp")(nn.LayerNorm(dtype=self.dtype, name="norm")(y), train=train)
        return y[:, 0]


class QueryPool(nn.Module):
    """`count` learned queries attend over the tokens: CoCa's pooler (Yu et al., 2022, sec. 3.2), its three norms as open_clip has them."""

    count: int
    width: int
    heads: int
    dtype: Dtype = "float32"
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"] | None = None, bias: Float[Array, "#B #H #M N"] | None = None
    ) -> Float[Array, "B count width"]:
        norm = partial(nn.LayerNorm, self.norm_epsilon, dtype=self.dtype)
        queries = self.param("queries", nn.initializers.normal(1.0), (1, self.count, self.width), jnp.float32)
        queries = jnp.broadcast_to(norm(name="norm_queries")(queries), (len(x), self.count, self.width))
        y = Attention(self.heads, dtype=self.dtype, name="attention")(queries, norm(name="norm_context")(x), valid, bias)
        return norm(name="norm")(y)
