"""What an optimizer remembers of each parameter, in half or a quarter of the memory between steps.

    c.optimizer.moments = "int8"  # or "bfloat16"

For any optimizer of optax: of its state, what has a parameter's path and shape is stored small, and is float32 again while a step
computes. Parameters with fewer than two dimensions or `moments_min_size` elements keep theirs in float32.

`int8` is Dettmers et al., 2022, '8-bit Optimizers via Block-wise Quantization', sec. 2: each block is divided by its largest
magnitude, and each element becomes the nearest of 256 values that grow finer towards zero, with a sign or, where a block has none,
without one and twice as fine. Adam's two moments take 2.1 instead of 8 bytes a parameter. Decided otherwise: blocks are 64 to 2,048
elements of a row rather than 2,048 of the flattened array, so that arrays split over a mesh are quantised where they lie
(`block_size`); what is positive in a block without negative elements does not become zero, since a second moment of zero makes a
step as long as the first moment over epsilon (Li et al., 2023, 'Memory Efficient Optimizers with 4-bit States', sec. 4.1); what has
a sign is seen from the block, not from the moment's name. The paper keeps embeddings in float32: `dict(moments="float32")` in a rule.

`bfloat16` takes 4 bytes, and rounds up or down at random, to the value itself on average: to the nearest, a second moment that
decays by a thousandth would stay where it is, since bfloat16's steps are four to eight thousandths. The draws depend on the step and
the path alone, so a run that goes on after a stop is the same to the bit.

Cost: arithmetic for each element and step, for the values or the random bits. Compiled for a TPU, the update holds no moments in
float32, and moves more bytes than without; on CPUs it has them all for a moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float, Int, UInt8

from mmjax.contract import fold_name

KINDS = ("float32", "bfloat16", "int8")
DECADES = 7  # of the values: from 1e-7 to 1

Kinds = Mapping[str, tuple[tuple[int, ...], str]]  # by a parameter's path, its shape and how its moments are kept


class Quantized(NamedTuple):
    """An optimizer's state whose moments are numbers of values, and by what each block's are multiplied; negative: without a sign."""

    state: Any
    scales: Mapping[str, Any]


def stored(state: Any, kinds: Kinds, step: Int[Array, ""]) -> Any:
    """An optimizer's state as it is kept."""
    scales: dict[str, Any] = {}

    def keep(path: str, kind: str, leaf: Any) -> Any:
        if kind == "bfloat16":
            return rounded(leaf, fold_name(jax.random.fold_in(jax.random.key(0), step), path))
        codes, scales[path] = quantized(leaf)
        return codes

    state = _changed(state, state, kinds, keep)
    return Quantized(state, unflatten_dict(scales, sep="/")) if scales else state


def whole(state: Any, kinds: Kinds, shapes: Any) -> Any:
    """What `stored` was given, but for what got lost; `shapes` are those of the optimizer's own state."""
    scales: dict[str, Any] = {}
    if isinstance(state, Quantized):
        state, scales = state.state, cast(dict, flatten_dict(state.scales, sep="/"))

    def load(path: str, kind: str, leaf: Any) -> Any:
        return leaf.astype(jnp.float32) if kind == "bfloat16" else dequantized(leaf, scales[path])

    return _changed(state, shapes, kinds, load)


def _changed(state: Any, shapes: Any, kinds: Kinds, change: Callable[[str, str, Any], Any]) -> Any:
    """A state with `change` of path, kind and array in place of the moments of the parameters in `kinds`."""

    def one(path: Any, leaf: Any, shape: Any) -> Any:
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        for i in range(len(names)):  # a moment has its parameter's path at the end of its own
            wanted, kind = kinds.get("/".join(names[i:]), (None, ""))
            if wanted == shape.shape and shape.dtype == jnp.float32:
                return change("/".join(names), kind, leaf)
        return leaf

    return jax.tree_util.tree_map_with_path(one, state, shapes) if kinds else state


def rounded(x: Float[Array, "*shape"], key: Array) -> Float[Array, "*shape"]:
    """To bfloat16, up or down at random so that the mean is `x`; what is not finite stays so."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    cut = jax.lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), cut, x).astype(jnp.bfloat16)


def block_size(length: int) -> int:
    """How many elements of a row of so many share a scale: a divisor from 64 to 2,048 that leaves a number of blocks which the
    highest power of two divides, since into so many parts a mesh can split the row between blocks; the whole row if there is none.
    """
    fit = [size for size in range(64, min(length, 2048) + 1) if length % size == 0]
    return max(fit, key=lambda size: ((length // size) & -(length // size), -size), default=length)


def quantized(x: Float[Array, "*rows n"]) -> tuple[UInt8[Array, "*rows n"], Float[Array, "*rows m"]]:
    """The numbers of the nearest values, and the scales of the blocks."""
    # Windows, not a reshape to blocks: for that a TPU lays everything out anew, in float32.
    window = (1,) * (x.ndim - 1) + (block_size(x.shape[-1]),)
    most = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "valid")
    least = jax.lax.reduce_window(x, jnp.inf, jax.lax.min, window, window, "valid")
    plain, scale = least >= 0, jnp.maximum(most, -least)
    codes = _codes(x / _spread(jnp.where(scale == 0, 1.0, scale), x), _spread(plain, x))
    return codes, jnp.where(plain, -scale, scale)


def dequantized(codes: UInt8[Array, "*rows n"], scales: Float[Array, "*rows m"]) -> Float[Array, "*rows n"]:
    """The values that the numbers stand for."""
    return _values(codes, _spread(jnp.signbit(scales), codes)) * _spread(jnp.abs(scales), codes)


def _spread(x: Array, like: Array) -> Array:
    """What a block has, for each of its elements."""
    return jnp.broadcast_to(x[..., None], (*x.shape, like.shape[-1] // x.shape[-1])).reshape(like.shape)


# Between 10^(i - 7) and 10^(i - 6) lie 2^i values, evenly; twice as many without a sign. 0 and 1 are values besides. With a sign,
# numbers below 127 are the negative ones, from -0.99 on.


def _codes(x: Float[Array, "*shape"], plain: Bool[Array, "*#shape"]) -> UInt8[Array, "*shape"]:
    """The number of the value nearest to each element of [-1, 1]."""
    first = jnp.where(plain, 2.0, 1.0)  # how many values the lowest decade has
    size = jnp.abs(x)
    decade: Any = sum((size >= 10.0 ** (i - 6) * (0.1 + 0.18 / (first * 2**i))).astype(jnp.float32) for i in range(1, DECADES))
    count = first * jnp.exp2(decade)
    place = jnp.floor((size * _power(6 - decade) - 0.1) / 0.9 * count)
    code = count - first + 1 + jnp.clip(place, 0.0, count - 1)
    code = jnp.where(size < 1e-6 * (0.1 + 0.45 / first) / 2, jnp.where(plain & (size > 0), 1.0, 0.0), code)
    code = jnp.where((size > 1 - 0.225 / (first * 2 ** (DECADES - 1))) & (plain | (x > 0)), first * 2**DECADES - first + 1, code)
    return jnp.where(plain, code, jnp.where(x < 0, 127 - code, 127 + code)).astype(jnp.uint8)


def _values(codes: UInt8[Array, "*shape"], plain: Bool[Array, "*#shape"]) -> Float[Array, "*shape"]:
    """The value that each number stands for."""
    signed = codes.astype(jnp.int32) - 127
    code = jnp.where(plain, codes.astype(jnp.int32), jnp.abs(signed))
    first = jnp.where(plain, 2, 1)
    place = jnp.maximum(code + first - 1, 1)
    exponent = 31 - jax.lax.clz(place)
    decade = (exponent - jnp.where(plain, 1, 0)).astype(jnp.float32)
    count = jnp.exp2(exponent.astype(jnp.float32))
    value = _power(decade - 6) * (0.1 + 0.9 * (place.astype(jnp.float32) - count + 0.5) / count)
    value = jnp.where(code == first * 2**DECADES - first + 1, 1.0, jnp.where(code == 0, 0.0, value))
    return jnp.where(~plain & (signed < 0), -value, value)


def _power(exponent: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.exp2(exponent * math.log2(10))
