"""The Shapley value: what each of several players adds to what all of them reach together."""

from __future__ import annotations

from math import factorial

import numpy as np
from jaxtyping import Float, Int


def members(count: int) -> list[tuple[int, ...]]:
    """The players of every coalition of `count`, in the order of `shapley`: set s has player i where bit i of s is 1."""
    return [tuple(i for i in range(count) if s >> i & 1) for s in range(1 << count)]


def restricted(values: Float[np.ndarray, "S N"], having: Int[np.ndarray, " N"]) -> Float[np.ndarray, "S N"]:
    """N games in which only some players take part, those whose bits are set in `having`: the others add nothing to anyone."""
    sets = np.arange(len(values))
    return np.take_along_axis(values, sets[:, None] & having[None], axis=0)


def shapley(values: Float[np.ndarray, "S *games"]) -> Float[np.ndarray, "M *games"]:
    """The exact value of each of M players: its marginal contribution, averaged over all orders in which they can join.

    Shapley, 1953, 'A Value for n-Person Games'. They add up to `values[-1] - values[0]`.

    Args:
        values: of each of the S = 2^M coalitions what it reaches, in any number of games at once; see `members`.

    Raises:
        ValueError: their number is no power of two.
    """
    count = len(values).bit_length() - 1
    if len(values) != 1 << count:
        raise ValueError(f"{len(values)} coalitions: of M players there are 2^M")
    sets = np.arange(len(values))
    weights = np.array([factorial(k) * factorial(count - k - 1) / factorial(count) for k in range(count)])
    found = np.empty((count, *values.shape[1:]))
    for i in range(count):
        without = sets[sets >> i & 1 == 0]
        added = values[without | 1 << i].astype(np.float64) - values[without]
        found[i] = np.tensordot(weights[np.bitwise_count(without)], added, axes=1)
    return found
