"""Token merging: Bolya et al., 2023, 'Token Merging: Your ViT But Faster', sec. 3.

Tokens are dealt out in turn to two sets. Each of the first finds the most similar of the second, and the `count` most similar pairs
become one token each, whose weight is the number of tokens in it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmjax.ops.masks import unit


class Matching(NamedTuple):
    """Which tokens become one. The first set is the tokens 0, 2, ..., the second 1, 3, ...; numbers are places in a set."""

    kept: Int[Array, "B K"]  # of the first set
    merged: Int[Array, "B R"]  # of the first set
    into: Int[Array, "B R"]  # of the second set
    order: np.ndarray  # of the kept and the second set behind each other, so that the protected come first


def matching(keys: Float[Array, "B N C"], count: int, protected: int = 0) -> Matching:
    """By the cosine of the keys; the first `protected` tokens stay as they are. At most half of the rest is merged."""
    keys = unit(jax.lax.stop_gradient(keys).astype(jnp.float32))
    first, second = keys[:, ::2], keys[:, 1::2]
    scores = jnp.einsum("bnc,bmc->bnm", first, second)
    scores = scores.at[:, : -(-protected // 2)].set(-jnp.inf).at[:, :, : protected // 2].set(-jnp.inf)
    order = jnp.argsort(scores.max(axis=-1), axis=1, descending=True)
    merged, kept = order[:, :count], order[:, count:]
    into = jnp.take_along_axis(scores.argmax(axis=-1), merged, axis=1)
    place = lambda i: i // 2 + (kept.shape[1] if i % 2 else 0)  # noqa: E731
    front = [place(i) for i in range(protected)]
    order = np.array([*front, *(i for i in range(kept.shape[1] + second.shape[1]) if i not in front)])
    return Matching(jnp.sort(kept, axis=1) if protected else kept, merged, into, order)


def most(length: int, count: int, protected: int) -> int:
    """How many of so many tokens are merged where `count` are wanted."""
    return min(count, (length - protected) // 2)


def merge(how: Matching, x: Float[Array, "B N D"], size: Float[Array, "B N"]) -> tuple[Float[Array, "B M D"], Float[Array, "B M"]]:
    """The means of what becomes one, weighted by size, and the new sizes: what is kept, then the second set."""
    weighed = jnp.concatenate([x.astype(jnp.float32) * size[..., None], size[..., None]], axis=-1)
    first, second = weighed[:, ::2], weighed[:, 1::2]
    kept, merged = (jnp.take_along_axis(first, places[..., None], axis=1) for places in (how.kept, how.merged))
    chosen = jax.nn.one_hot(how.into, second.shape[1], dtype=jnp.float32)  # a product, since scattering is slow on accelerators
    second = second + jnp.einsum("brm,brd->bmd", chosen, merged, precision="highest")
    summed = jnp.concatenate([kept, second], axis=1)[:, how.order]
    return (summed[..., :-1] / summed[..., -1:]).astype(x.dtype), summed[..., -1]


def places(how: Matching) -> Int[Array, "B N"]:
    """Where each token went: its place among the tokens that `merge` gives."""
    rows, kept = how.kept.shape
    second = len(how.order) - kept
    place = jnp.asarray(np.argsort(how.order), jnp.int32)
    row = jnp.arange(rows)[:, None]
    found = jnp.zeros((rows, kept + how.merged.shape[1] + second), jnp.int32).at[:, 1::2].set(place[None, kept:])
    found = found.at[row, 2 * how.kept].set(place[None, :kept])
    return found.at[row, 2 * how.merged].set(place[kept + how.into])
