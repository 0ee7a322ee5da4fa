"""Ranks in retrieval, and what chance gives."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln


def unit(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows of length 1, and those of length 0 as they are; on the host (`ops/masks.py` has it for the device)."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def ranks(
    queries: Float[np.ndarray, "Q D"],
    query_keys: Int[np.ndarray, " Q"],
    candidates: Float[np.ndarray, "C D"],
    candidate_keys: Int[np.ndarray, " C"],
) -> tuple[Int[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """How many wrong candidates come before the first right one, and how many right ones there are, for each query.

    Right are all candidates with the query's key. A tie counts against the query, so that an embedding which puts
    everything in one place scores nothing. A query without a right candidate gets the rank of the last place.
    """
    rank, right = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    for start in range(0, len(queries), 1_024):
        rows = slice(start, start + 1_024)
        similarity = queries[rows] @ candidates.T
        positive = query_keys[rows, None] == candidate_keys[None, :]
        best = np.max(similarity, axis=1, where=positive, initial=-np.inf)
        rank[rows] = np.sum(~(similarity < best[:, None]) & ~positive, axis=1)  # so that NaN comes last, too
        right[rows] = positive.sum(axis=1)
    return rank, right


def chance_within(k: int, right: Int[np.ndarray, " Q"], candidates: int) -> Float[np.ndarray, " Q"]:
    """The probability that a random order has one of `right` among its first `k` of `candidates` (hypergeometric)."""
    wrong = candidates - right
    if k >= candidates:
        return (right > 0).astype(np.float64)
    log_none = gammaln(wrong + 1) - gammaln(np.maximum(wrong - k, 0) + 1) - gammaln(candidates + 1) + gammaln(candidates - k + 1)
    return np.where(wrong >= k, 1 - np.exp(log_none), 1.0)


def summary(rank: Int[np.ndarray, " Q"], ks: tuple[int, ...]) -> dict[str, float]:
    """Recall at each k, and the median rank (from 1)."""
    return {**{f"r@{k}": float(np.mean(rank < k)) for k in ks}, "median_rank": float(np.median(rank) + 1)}


def chance_summary(right: Int[np.ndarray, " Q"], candidates: int, ks: tuple[int, ...]) -> dict[str, float]:
    """What a random order is expected to reach, in the terms of `summary`."""
    recall = {f"r@{k}": float(np.mean(chance_within(k, right, candidates))) for k in ks}
    half = 0.5 - 1e-9  # whatever the rounding
    middle = next((r for r in range(1, candidates + 1) if np.mean(chance_within(r, right, candidates)) >= half), candidates)
    return {**recall, "median_rank": float(middle)}
