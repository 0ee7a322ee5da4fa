"""Which example every row of training reads.

A source is drawn from as a whole, or by strata: stretches of its examples that each get a share of the rows, whatever
their sizes; where `data.balance` asks for more rows with a rare stream, these are arranged and weighted anew. Each
stratum is a seeded global permutation an epoch of its own. Where row r reads is a pure function of r: nothing is carried
from row to row, so any process can compute any row, and resuming needs the row's number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

Stratum = tuple[int, int, float]  # the first example, the one behind the last, and a weight
RESOLUTION = 2**20  # shares are multiples of its inverse: rows * 2**20 stays within int64
SMALL = 1_024  # grain permutes without a table, by some 2**16 / size tries a number; fewer than this are better tabled


class Order:
    """`order(rows)` is the example of each row and the epoch of its stratum, in which the example is read."""

    def __init__(self, strata: Sequence[Stratum], seed: int):
        self._sizes = np.array([stop - start for start, stop, _ in strata])
        weights = np.array([weight for *_, weight in strata], np.float64)
        self._shares = np.maximum(np.rint(RESOLUTION * weights / weights.sum()), 1).astype(np.int64)
        self._permuted = [permuted(start, stop, _seed_of(seed, i)) for i, (start, stop, _) in enumerate(strata)]

    def __call__(self, rows: Int[np.ndarray, " N"]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """Examples and epochs of some rows of the endless training."""
        which, nth = interleaved(rows, self._shares)
        examples = np.array([self._permuted[i](int(n)) for i, n in zip(which, nth, strict=True)], np.int64)
        return examples, nth // self._sizes[which]


def balanced(
    strata: Sequence[Stratum], has: Mapping[str, Bool[np.ndarray, " N"]], shares: Mapping[str, float]
) -> tuple[Int[np.ndarray, " N"], list[Stratum]]:
    """An arrangement of the examples, and strata of it, of which at least `shares[m]` of the rows `has[m]`.

    The strata are parted by what their examples have. Their weights are scaled, for one stream after the other until all
    shares are met: iterative proportional fitting (Deming and Stephan, 1940), of margins that are bounded from below. What has
    the same streams in the same stratum keeps its proportion; where every share is met anyway, nothing changes.

    Raises:
        ValueError: no example has a stream, or the shares exclude each other.
    """
    names = sorted(shares)
    arranged, cells, weights, having = [], [], [], []
    place = 0
    for start, stop, weight in strata:
        pattern = np.stack([has[m][start:stop] for m in names], axis=1)
        for row in np.unique(pattern, axis=0)[::-1]:
            members = start + np.flatnonzero((pattern == row).all(axis=1))
            arranged.append(members)
            cells.append((place, place + len(members)))
            place += len(members)
            weights.append(weight * len(members) / (stop - start))
            having.append(row)
    having, share = np.array(having), np.array(weights) / sum(weights)
    for i, m in enumerate(names):
        if not having[:, i].any():
            raise ValueError(f"no example has {m!r}")
    for _ in range(1_000):
        missing = [i for i, m in enumerate(names) if share[having[:, i]].sum() < shares[m] - 1e-6]
        if not missing:
            return np.concatenate(arranged), [(*cell, float(w)) for cell, w in zip(cells, share, strict=True)]
        for i in missing:
            wanted, now = shares[names[i]], share[having[:, i]].sum()
            if now < wanted:
                share = np.where(having[:, i], share * wanted / now, share * (1 - wanted) / (1 - now))
    raise ValueError("no sampling has all these shares")


def _seed_of(seed: int, stratum: int) -> int:
    """The first stratum is shuffled by the run's own seed, as a source without strata is."""
    return seed if stratum == 0 else int(np.random.SeedSequence((seed, stratum)).generate_state(1)[0])


def permuted(start: int, stop: int, seed: int) -> Callable[[int], int]:
    """The n-th of the numbers from `start` to `stop`, endlessly, in another order every time."""
    import grain

    size = stop - start
    if size >= SMALL:
        shuffled: Any = grain.MapDataset.range(start, stop).seed(seed).shuffle().repeat(None)
        return shuffled.__getitem__

    @lru_cache(maxsize=64)
    def epoch(number: int) -> np.ndarray:
        return start + np.random.default_rng((seed, number)).permutation(size)

    return lambda n: int(epoch(n // size)[n % size])


def interleaved(rows: Int[np.ndarray, " N"], shares: Int[np.ndarray, " S"]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """For every row its stratum, and how many rows before it were that stratum's.

    Of the first n rows a stratum has its share of n, to less than one row for every stratum that there is. The strata
    are served one after the other, each from the rows that those before it left: of k rows left, it gets
    k - floor(k * (1 - its share of what is left)).
    """
    which, nth = np.full(rows.shape, -1, np.int64), np.zeros(rows.shape, np.int64)
    before, after, left = rows.astype(np.int64), rows.astype(np.int64) + 1, int(shares.sum())
    for i, share in enumerate(shares):
        rest_before, rest_after = before * (left - share) // left, after * (left - share) // left
        mine = (which < 0) & (after - rest_after > before - rest_before)
        which[mine], nth[mine] = i, (before - rest_before)[mine]
        before, after, left = rest_before, rest_after, left - share
    return which, nth
