"""How good scores of classes are, and what chance and a constant answer reach."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata


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


def frequencies(seen: Int[np.ndarray, " M"], classes: int) -> Float[np.ndarray, " C"]:
    """The share of each of `classes` in `seen`."""
    return np.bincount(seen, minlength=classes)[:classes] / len(seen)


def confusion(taken: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: int) -> Int[np.ndarray, "C C"]:
    """How many examples of each class (rows) are taken for each (columns)."""
    return np.bincount(labels * classes + taken, minlength=classes * classes).reshape(classes, classes)


def by_class(
    taken: Bool[np.ndarray, "N C"], right: Bool[np.ndarray, "N C"]
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Precision, recall and F1 of each class; 0 where there is nothing to divide by."""
    hits, found, there = (taken & right).sum(axis=0), taken.sum(axis=0), right.sum(axis=0)
    return hits / np.maximum(found, 1), hits / np.maximum(there, 1), 2 * hits / np.maximum(found + there, 1)


def average_precision(scores: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> float:
    """The area under precision over recall as a sum of steps, equal scores being one step; NaN without a positive."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(positive[order])[last]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last + 1)) / hits[-1]) if positive.any() else np.nan


def auroc(scores: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> float:
    """The chance that a positive scores above a negative, ties counting half; NaN where there are not both."""
    p, n = int(positive.sum()), int((~positive).sum())
    return float((rankdata(scores)[positive].sum() - p * (p + 1) / 2) / (p * n)) if p and n else np.nan


def ranking_summary(scores: Float[np.ndarray, "N C"], right: Bool[np.ndarray, "N C"]) -> dict[str, float]:
    """`map` and `auroc`, the means over the classes that have both examples and others."""
    both = np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))
    measures = {"map": average_precision, "auroc": auroc}
    return {name: float(np.mean([f(scores[:, c], right[:, c]) for c in both])) for name, f in measures.items()} if len(both) else {}


def single_summary(scores: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> dict[str, float]:
    """Of one class an example: `accuracy`, `balanced_accuracy` (mean recall of the classes that have examples), `f1_macro` (over
    the classes that have examples or are answered), `map`, `auroc`.
    """
    classes = np.arange(scores.shape[1])[None]
    taken, right = scores.argmax(axis=1)[:, None] == classes, labels[:, None] == classes
    _, recall, f1 = by_class(taken, right)
    there = right.any(axis=0)
    return {
        "accuracy": float((taken & right).any(axis=1).mean()),
        "balanced_accuracy": float(recall[there].mean()),
        "f1_macro": float(f1[there | taken.any(axis=0)].mean()),
        **ranking_summary(scores, right),
    }


def multilabel_summary(scores: Float[np.ndarray, "N C"], right: Bool[np.ndarray, "N C"]) -> dict[str, float]:
    """Of any number of tags an example, answered where the score is above 0: `f1_micro`, `f1_macro`, `map`, `auroc`."""
    taken = scores > 0
    micro = 2 * (taken & right).sum() / max(taken.sum() + right.sum(), 1)
    return {"f1_micro": float(micro), "f1_macro": float(by_class(taken, right)[2].mean()), **ranking_summary(scores, right)}
