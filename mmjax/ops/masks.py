"""What is absent must not matter: the few operations that see to it."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from mmjax.contract import Encoding


def zero_where_not(keep: Bool[Array, "..."], x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`x` where `keep` holds and 0 elsewhere; `keep` covers the leading axes of `x`.

    A select, never a product: 0 * NaN is NaN, and so is the gradient through it.
    """
    return jnp.where(keep.reshape(keep.shape + (1,) * (x.ndim - keep.ndim)), x, jnp.zeros((), x.dtype))


def masks_of(
    x: Shaped[Array, "B T ..."], valid: Bool[Array, "B T"] | None, present: Bool[Array, " B"] | None
) -> tuple[Bool[Array, "B T"], Bool[Array, " B"]]:
    """`valid` and `present` of a stream: what is not given holds everywhere, and an absent row has nothing valid."""
    present = jnp.ones(x.shape[0], bool) if present is None else present
    return present[:, None] & (jnp.ones(x.shape[:2], bool) if valid is None else valid), present


def stage_valid(encoding: Encoding, stage: Float[Array, "B N D"]) -> Bool[Array, "B N"]:
    """Which positions of one of an encoding's stages are valid: with as many as it has tokens those of these, else all of present rows."""
    if stage.shape[:2] == encoding.valid.shape:
        return encoding.valid & encoding.present[:, None]
    return jnp.broadcast_to(encoding.present[:, None], stage.shape[:2])


def masked_mean(x: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """Mean over the valid positions of each row; 0 for a row that has none."""
    count = jnp.maximum(valid.sum(axis=1, keepdims=True), 1).astype(x.dtype)
    return zero_where_not(valid, x).sum(axis=1) / count


def masked_max(x: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """Largest value over the valid positions of each row; 0 for a row that has none."""
    largest = jnp.max(x, axis=1, where=valid[:, :, None], initial=-jnp.inf)
    return zero_where_not(valid.any(axis=1), largest)


def masked_parts(x: Float[Array, "B N D"], valid: Bool[Array, "B N"], parts: int) -> Float[Array, "B F"]:
    """Each row's valid positions in so many parts of equal length, the mean of each, side by side; 0 for a part that has none."""
    place, count = jnp.cumsum(valid, axis=1) - 1, valid.sum(axis=1, keepdims=True)
    part = jnp.where(valid, place * parts // jnp.maximum(count, 1), parts)
    share = (part[:, :, None] == jnp.arange(parts)[None, None]).astype(x.dtype)  # [B,N,parts]
    sums = jnp.einsum("bnd,bnp->bpd", zero_where_not(valid, x), share)
    means = sums / jnp.maximum(share.sum(axis=1), 1)[:, :, None]
    return means.reshape(len(x), -1)


def masked_last(x: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """What stands at the last valid position of each row; for a row that has none, at the last position."""
    last = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
    return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]


def valid_strides(valid: Bool[Array, "B T"], stride: int) -> Bool[Array, "B N"]:
    """Which of the runs of `stride` positions have a valid one: N = ceil(T / stride).

    What holds behind a convolution of that stride and symmetric padding, for output i stands at position i * stride:
    a row of L valid positions keeps ceil(L / stride), as it would if it stood alone.
    """
    padded = jnp.pad(valid, ((0, 0), (0, -valid.shape[1] % stride)))
    return padded.reshape(len(valid), -1, stride).any(axis=2)


def valid_windows(valid: Bool[Array, "B T"], size: int, stride: int) -> Bool[Array, "B N"]:
    """Which windows of `size` positions, `stride` apart, are valid throughout: N = (T - size) // stride + 1.

    What holds behind a convolution without padding. A row that is too short for one keeps the first.
    """
    whole = jax.lax.reduce_window(valid, np.bool_(True), jax.lax.bitwise_and, (1, size), (1, stride), "valid")
    return whole.at[:, 0].set(whole[:, 0] | (valid.any(axis=1) & ~whole.any(axis=1)))


def token_times(valid: Bool[Array, "B N"], stride: int, rate: float | None, size: int | None = None) -> Float[Array, "B N"] | None:
    """Seconds at which tokens stand: the middles of windows of `size` (by default `stride`) positions, `stride` apart, `rate` a second."""
    if rate is None:
        return None
    middles = np.arange(valid.shape[1]) * stride + ((size or stride) - 1) / 2
    return jnp.broadcast_to(jnp.asarray(middles / rate, jnp.float32), valid.shape)


def unit(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """`x` scaled to length 1 along the last axis; a zero vector stays zero, with finite gradients."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jnp.where(square > 0, 1.0, 0.0).astype(x.dtype) / jnp.sqrt(jnp.maximum(square, 1e-12))


def zero_absent(encodings: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """The encodings sorted by name, 0 wherever nothing is: what a fusion begins with.

    Absent rows have no valid tokens.
    """
    found = {}
    for name in sorted(encodings):
        e = encodings[name]
        valid = e.valid & e.present[:, None]
        found[name] = e._replace(
            tokens=zero_where_not(valid, e.tokens),
            valid=valid,
            pooled=zero_where_not(e.present, e.pooled),
            time=None if e.time is None else zero_where_not(valid, e.time),
            stages=tuple(zero_where_not(stage_valid(e, s), s) for s in e.stages),
            aux={key: zero_where_not(e.present, value) for key, value in e.aux.items()},
        )
    return found


def presence(encodings: Mapping[str, Encoding]) -> Bool[Array, "B M"]:
    """Which rows have which modality, the modalities sorted by name."""
    return jnp.stack([encodings[name].present for name in sorted(encodings)], axis=1)
