"""What a difference between methods is worth: intervals, paired tests and ranks over blocks (subjects, concepts).

A block is what was sampled independently and tested by every method; windows of one subject are not. Scores are first
averaged over the seeds and examples of a block. Blocks tested in different folds share training data, so their scores
are not wholly independent (Bengio & Grandvalet, 2004); no interval from one cross-validation escapes that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

EXACT = 14  # up to so many blocks every assignment of signs is tried
DRAWS = 20_000  # and so many of them beyond


class Interval(NamedTuple):
    """A mean and the half-width of its interval; nan where a single block tells no width."""

    mean: float
    half: float


def interval(scores: Float[np.ndarray, " N"], level: float = 0.95) -> Interval:
    """The mean over blocks with Student's interval."""
    n = len(scores)
    if n < 2:
        return Interval(float(np.mean(scores)), float("nan"))
    half = stats.t.ppf(0.5 + level / 2, n - 1) * np.std(scores, ddof=1) / np.sqrt(n)
    return Interval(float(np.mean(scores)), float(half))


def sign_flip(differences: Float[np.ndarray, " N"], seed: int = 0) -> float:
    """The two-sided p-value of the paired permutation test on the mean difference (Fisher, 1935).

    If two methods did not differ, each block's difference could as well have the other sign: p is the share of all 2^N
    assignments of signs whose mean is as far from 0. Beyond `EXACT` blocks it is estimated from `DRAWS` random ones, the
    one at hand counted in (Phipson & Smyth, 2010), so that it is never 0.
    """
    d = np.asarray(differences, np.float64)
    n = len(d)
    seen = abs(d.sum()) * (1 - 1e-12) - 1e-12  # sums of the same numbers in another order are the same
    if n <= EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ d) >= seen))
    rng = np.random.default_rng(seed)
    found = sum(int((np.abs(rng.choice([-1.0, 1.0], (1_000, n)) @ d) >= seen).sum()) for _ in range(DRAWS // 1_000))
    return (found + 1) / (DRAWS + 1)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for being several, so that the chance of any false positive stays below the level (Holm, 1979)."""
    order, corrected, worst = sorted(p, key=lambda name: (p[name], name)), {}, 0.0
    for i, name in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - i) * p[name]))
        corrected[name] = worst
    return {name: corrected[name] for name in p}


def mean_ranks(scores: Float[np.ndarray, "N M"]) -> Float[np.ndarray, " M"]:
    """Each method's mean rank over blocks, 1 the best; ties share their ranks."""
    return stats.rankdata(-scores, axis=1).mean(axis=0)


def critical_difference(methods: int, blocks: int, level: float = 0.95) -> float:
    """How far two mean ranks have to lie apart: Nemenyi's test (Demšar, 2006, sec. 3.2.2)."""
    q = stats.studentized_range.ppf(level, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def smallest_p(blocks: int) -> float:
    """The least p-value that `sign_flip` can give with so many blocks, whatever the difference."""
    return 2.0 ** (1 - blocks) if blocks <= EXACT else 1 / (DRAWS + 1)
