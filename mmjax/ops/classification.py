"""How good scores of classes are, and what chance and a constant answer reach."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def ranks(scores: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """How many other classes come before the right one; a tie counts against it, and so does what is no number."""
    right = np.take_along_axis(scores, labels[:, None], axis=1)
    return np.sum(~(scores < right), axis=1) - 1


def summary(rank: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: int) -> dict[str, float]:
    """`top1`, `top5` where there are more classes than that, and `balanced_accuracy`, the mean over classes of their top1."""
    top5 = {"top5": float(np.mean(rank < 5))} if classes > 5 else {}
    by_class = np.bincount(labels, rank == 0) / np.maximum(np.bincount(labels), 1)
    return {"top1": float(np.mean(rank == 0)), **top5, "balanced_accuracy": float(by_class[np.unique(labels)].mean())}


def chance_summary(classes: int) -> dict[str, float]:
    """What guessing among `classes` is expected to reach, in the terms of `summary`."""
    top5 = {"top5": 5 / classes} if classes > 5 else {}
    return {"top1": 1 / classes, **top5, "balanced_accuracy": 1 / classes}


def majority_summary(seen: Int[np.ndarray, " M"], labels: Int[np.ndarray, " N"], classes: int) -> dict[str, float]:
    """What answering with the classes most frequent in `seen` reaches, whatever the example."""
    place = np.empty(classes, np.int64)
    place[np.argsort(-np.bincount(seen, minlength=classes), kind="stable")] = np.arange(classes)
    return summary(place[labels], labels, classes)
