"""Whether a classifier is right as often as it says: calibration errors, proper scores, and a temperature that mends it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import root_scalar
from scipy.special import log_softmax, softmax

TEMPERATURES = (0.01, 100.0)  # the range in which one is sought


class Bins(NamedTuple):
    """Of each bin of confidences its examples: how many, their mean confidence and how many of them are right, 0 where there are none."""

    count: Int[np.ndarray, " K"]
    confidence: Float[np.ndarray, " K"]
    accuracy: Float[np.ndarray, " K"]


def equal_width(bins: int) -> Float[np.ndarray, " E"]:
    """The edges of `bins` intervals of one width from 0 to 1 (Guo et al., 2017, 'On Calibration of Modern Neural Networks', sec. 2)."""
    return np.linspace(0.0, 1.0, bins + 1)


def equal_mass(confidence: Float[np.ndarray, " N"], bins: int) -> Float[np.ndarray, " E"]:
    """The edges from 0 to 1 between which equally many of N confidences lie (adaptive bins: Nguyen & O'Connor, 2015): their quantiles.

    Equal confidences are never parted, so that where many are equal some bins are larger and others empty.
    """
    inner = np.quantile(confidence.astype(np.float64), equal_width(bins)[1:-1])
    return np.concatenate([[0.0], inner, [1.0]])


def binned(confidence: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"], edges: Float[np.ndarray, " E"]) -> Bins:
    """The examples of each interval (low, high], the first of which holds 0 too."""
    place, count = np.searchsorted(edges[1:-1], confidence), len(edges) - 1
    number = np.bincount(place, minlength=count)
    sums = (np.bincount(place, x.astype(np.float64), minlength=count) for x in (confidence, right))
    return Bins(number, *(x / np.maximum(number, 1) for x in sums))


def expected_error(bins: Bins) -> float:
    """The expected calibration error: |accuracy - confidence|, the mean over examples (Guo et al., 2017, eq. 3)."""
    return float(np.sum(bins.count * np.abs(bins.accuracy - bins.confidence)) / bins.count.sum())


def brier(p: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    """The mean squared distance of the probabilities from the truth, summed over all classes (Brier, 1950): from 0 to 2."""
    return float(np.mean(np.sum((p - (labels[:, None] == np.arange(p.shape[1])[None])) ** 2, axis=1)))


def nll(log_p: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    """The mean negative log-likelihood of the labels, in nats."""
    return -float(np.mean(np.take_along_axis(log_p, labels[:, None], axis=1)))


def summary(logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], bins: int) -> dict[str, float]:
    """`ece` (over bins of equal width), `ece_equal_mass`, `brier` and `nll` of the softmax of the logits."""
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    confidence, right = confident(logits, labels)
    edges = {"ece": equal_width(bins), "ece_equal_mass": equal_mass(confidence, bins)}
    errors = {name: expected_error(binned(confidence, right, e)) for name, e in edges.items()}
    return {**errors, "brier": brier(np.exp(log_p), labels), "nll": nll(log_p, labels)}


def confident(logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """The probability of each answer, the likeliest class, and whether it is right."""
    p = softmax(logits.astype(np.float64), axis=1)
    return p.max(axis=1), logits.argmax(axis=1) == labels


def temperature(logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    """The T, in `TEMPERATURES`, for which logits / T have the least negative log-likelihood (Guo et al., 2017, sec. 4.2).

    That is convex in 1 / T, and its slope there the mean over examples of E[logit] - logit of the label. 1 where all T are the same.
    """
    z = logits.astype(np.float64)
    right = np.take_along_axis(z, labels[:, None], axis=1)[:, 0]

    def slope(log_t: float) -> float:
        return float(np.mean(np.sum(softmax(z / np.exp(log_t), axis=1) * z, axis=1) - right))

    low, high = np.log(TEMPERATURES)
    if not np.ptp(z, axis=1).any():
        return 1.0
    if slope(low) <= 0:  # larger 1 / T would be better still: all are right
        return TEMPERATURES[0]
    if slope(high) >= 0:
        return TEMPERATURES[1]
    return float(np.exp(root_scalar(slope, bracket=(low, high), xtol=1e-10).root))
