"""Tokens of several modalities at common steps of time, for fusion that goes step by step.

Times are an encoding's `time`, scaled in every row to 0..1 from the first valid token of any modality to the last. Where an
encoder gives no times its valid tokens stand evenly in their order from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.nn.tokens import main_of
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_last, presence, zero_absent, zero_where_not

KINDS = ("mean", "linear", "kernel", "attention")


class Clock(NamedTuple):
    """Where tokens stand between 0 and 1, and what that is in seconds, if any modality has times."""

    time: dict[str, Float[Array, "B _"]]
    start: Float[Array, " B"] | None
    span: Float[Array, " B"] | None

    def seconds(self, at: Float[Array, "B S"]) -> Float[Array, "B S"] | None:
        """Times between 0 and 1 as seconds."""
        return None if self.start is None or self.span is None else self.start[:, None] + self.span[:, None] * at


def clock(encodings: Mapping[str, Encoding]) -> Clock:
    """The times of all tokens on one scale; of encodings from `zero_absent`. Times pass no gradients on."""
    timed = {m: jax.lax.stop_gradient(e.time).astype(jnp.float32) for m, e in encodings.items() if e.time is not None}
    start = span = None
    if timed:
        first = jnp.stack([jnp.where(encodings[m].valid, t, jnp.inf).min(axis=1) for m, t in timed.items()]).min(axis=0)
        last = jnp.stack([jnp.where(encodings[m].valid, t, -jnp.inf).max(axis=1) for m, t in timed.items()]).max(axis=0)
        any_here = jnp.isfinite(first)  # else the row has only modalities without times
        start, span = jnp.where(any_here, first, 0), jnp.where(any_here, last - first, 1)
    found = {}
    for m, e in encodings.items():
        if m in timed and start is not None and span is not None:
            scaled = (timed[m] - start[:, None]) / jnp.where(span > 0, span, 1)[:, None]
            found[m] = jnp.where(span[:, None] > 0, scaled, 0.5)
        else:
            count = e.valid.sum(axis=1, keepdims=True)
            place = (jnp.cumsum(e.valid, axis=1) - 1).astype(jnp.float32)
            found[m] = jnp.where(count > 1, place / jnp.maximum(count - 1, 1).astype(jnp.float32), 0.5)
        found[m] = zero_where_not(e.valid, found[m])
    return Clock(found, start, span)


def even_steps(count: int) -> Float[Array, " S"]:
    """So many steps from 0 to 1; a single one is in the middle."""
    return jnp.linspace(0.0, 1.0, count) if count > 1 else jnp.full(1, 0.5)


def mean_weights(
    at: Float[Array, "B S"], at_valid: Bool[Array, "B S"], time: Float[Array, "B N"], valid: Bool[Array, "B N"]
) -> Float[Array, "B S N"]:
    """Every token belongs to the step that is nearest, of two the earlier; a step has the mean of its tokens, if there are any."""
    distance = jnp.round(jnp.abs(at[:, :, None] - time[:, None, :]) * 1e5)  # what is as near should stay so
    nearest_step = jnp.argmin(jnp.where(at_valid[:, :, None], distance, jnp.inf), axis=1)  # [B,N]
    here = at_valid[:, :, None] & valid[:, None, :]
    own = zero_where_not(here, jax.nn.one_hot(nearest_step, at.shape[1], axis=1))
    return own / jnp.maximum(own.sum(axis=2, keepdims=True), 1)


def linear_weights(at: Float[Array, "B S"], time: Float[Array, "B N"], valid: Bool[Array, "B N"]) -> Float[Array, "B S N"]:
    """Linear interpolation between the valid tokens before and after; before the first and behind the last stands that one."""
    at, time, valid = at[:, :, None], time[:, None, :], valid[:, None, :]
    past, future = valid & (time <= at), valid & (time > at)
    before, after = jnp.where(past, time, -jnp.inf), jnp.where(future, time, jnp.inf)
    previous = zero_where_not(past.any(axis=2), jax.nn.one_hot(jnp.argmax(before, axis=2), time.shape[2]))
    following = zero_where_not(future.any(axis=2), jax.nn.one_hot(jnp.argmin(after, axis=2), time.shape[2]))
    low, high = before.max(axis=2, keepdims=True), after.min(axis=2, keepdims=True)
    both = jnp.isfinite(low) & jnp.isfinite(high)
    share = jnp.where(both, (at - jnp.where(both, low, 0)) / jnp.where(both, high - low, 1), jnp.isfinite(high).astype(at.dtype))
    return (1 - share) * previous + share * following


class Kernel(nn.Module):
    """A Gaussian around the step, of one learned width: every token has a weight, as in Nadaraya-Watson regression."""

    start: float

    @nn.compact
    def __call__(self, at: Float[Array, "B S"], time: Float[Array, "B N"], valid: Bool[Array, "B N"]) -> Float[Array, "B 1 S N"]:
        log_width = self.param("log_width", lambda key: jnp.log(jnp.float32(self.start)))
        distance = (at[:, :, None] - time[:, None, :]) / jnp.exp(log_width)
        return jax.nn.softmax(-0.5 * jnp.square(distance), axis=2, where=valid[:, None, :])[:, None]


class TimeAttention(nn.Module):
    """Multi-time attention (mTAN): Shukla & Marlin, 2021, 'Multi-Time Attention Networks for Irregularly Sampled Time Series', eq. 1-3.

    Times are embedded as one linear and otherwise periodic features, and a step attends to tokens by time alone. The linear
    map of all heads (eq. 4) is whatever reads the steps.
    """

    heads: int = 1
    features: int = 16

    @nn.compact
    def __call__(self, at: Float[Array, "B S"], time: Float[Array, "B N"], valid: Bool[Array, "B N"]) -> Float[Array, "B H S N"]:
        if self.features % self.heads:
            raise ConfigError(f"align_heads={self.heads} do not divide the {self.features} features of a time.")
        wave = nn.Dense(self.features, kernel_init=nn.initializers.normal(6.0), name="embed")  # a few waves over a row

        def embedded(t):
            raw = wave(t[:, :, None])
            return jnp.concatenate([raw[..., :1], jnp.sin(raw[..., 1:])], axis=2)

        def split(x):
            return x.reshape(*x.shape[:2], self.heads, -1)

        query = split(nn.Dense(self.features, name="query")(embedded(at)))
        key = split(nn.Dense(self.features, use_bias=False, name="key")(embedded(time)))  # softmax would ignore a bias
        score = jnp.einsum("bshe,bnhe->bhsn", query, key) / query.shape[3] ** 0.5
        return jax.nn.softmax(score, axis=3, where=valid[:, None, None, :])


class Steps(NamedTuple):
    """Modalities at common steps: [B, S, heads * D_m] each, where a modality has something to say, and the steps."""

    x: dict[str, Float[Array, "B S _"]]
    seen: dict[str, Bool[Array, "B S"]]
    valid: Bool[Array, "B S"]
    time: Float[Array, "B S"] | None  # seconds

    def features(self) -> Float[Array, "B S D"]:
        """All modalities side by side."""
        return jnp.concatenate(list(self.x.values()), axis=2)

    def last(self, x: Float[Array, "B S D"]) -> Float[Array, "B D"]:
        """What stands at each row's last step; 0 where a row has none."""
        return zero_where_not(self.valid.any(axis=1), masked_last(x, self.valid))


class Alignment(nn.Module):
    """Modalities resampled at `steps` even steps, or at the tokens of `main`; a row that lacks it has as many even steps.

    `how` is "mean" (of the tokens nearest to a step, none where there are none), "linear" (interpolation), "kernel" (`Kernel`)
    or "attention" (`TimeAttention`, whose `heads` stand side by side). What a modality lacks is 0.
    """

    how: str = "linear"
    steps: int = 16
    main: str | None = None
    heads: int = 1
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding]) -> Steps:
        if self.how not in KINDS:
            raise ConfigError(f"fusion.align={self.how!r} is unknown.{nearest(self.how, KINDS)}")
        encodings = zero_absent(encodings)
        here, times = presence(encodings).any(axis=1), clock(encodings)
        count = self.steps if self.main is None else encodings[main_of(self.main, encodings)].valid.shape[1]
        at = jnp.broadcast_to(even_steps(count)[None], (len(here), count))
        at_valid = jnp.broadcast_to(here[:, None], at.shape)
        if self.main is not None:
            main = encodings[self.main]
            has = main.valid.any(axis=1, keepdims=True)
            at, at_valid = jnp.where(has, times.time[self.main], at), jnp.where(has, main.valid, at_valid)
        x, seen = {}, {}
        for m, e in encodings.items():
            t = times.time[m]
            if self.how == "mean":
                weights = mean_weights(at, at_valid, t, e.valid)[:, None]
            elif self.how == "linear":
                weights = linear_weights(at, t, e.valid)[:, None]
            elif self.how == "kernel":
                weights = Kernel(1 / max(count, 2), name=f"{m}_kernel")(at, t, e.valid)
            else:
                weights = TimeAttention(self.heads, name=f"{m}_attention")(at, t, e.valid)
            some = (weights > 0).any(axis=(1, 3)) if self.how == "mean" else e.valid.any(axis=1)[:, None]
            seen[m] = some & at_valid
            resampled = jnp.einsum("bhsn,bnd->bshd", weights.astype(self.dtype), e.tokens.astype(self.dtype))
            x[m] = zero_where_not(seen[m], resampled.reshape(*at.shape, -1))
        return Steps(x, seen, at_valid, times.seconds(at))
