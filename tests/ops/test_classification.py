"""Accuracies against scikit-learn, ties, and what chance and a constant answer reach."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from mmjax.ops.classification import chance_summary, majority_summary, ranks, summary

RNG = np.random.default_rng(0)


def test_figures_equal_scikit_learns():
    scores, labels = RNG.normal(size=(200, 8)), RNG.integers(0, 7, 200)  # class 7 has no example
    found = summary(ranks(scores, labels), labels, 8)
    for k in (1, 5):
        assert found[f"top{k}"] == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(8)))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    assert "top5" not in summary(ranks(scores[:, :5], labels % 5), labels % 5, 5), "of five classes everything is among the first five"


def test_the_same_score_for_all_and_what_is_no_number_are_wrong():
    labels = RNG.integers(0, 8, 50)
    for scores in (np.ones((50, 8)), np.full((50, 8), np.nan), np.full((50, 8), -np.inf)):
        assert summary(ranks(scores, labels), labels, 8) == {"top1": 0, "top5": 0, "balanced_accuracy": 0}


def test_chance_and_majority():
    seen, labels = RNG.choice(9, 500, p=np.arange(9) / 36), RNG.integers(0, 9, 300)
    found = majority_summary(seen, labels, 9)
    dummy = DummyClassifier(strategy="most_frequent").fit(seen, seen).predict(labels)
    assert found["top1"] == np.mean(dummy == labels) and found["balanced_accuracy"] == balanced_accuracy_score(labels, dummy)
    assert found["top5"] == np.mean(np.isin(labels, np.argsort(-np.bincount(seen, minlength=9))[:5]))
    guesses = RNG.normal(size=(20_000, 9))
    y = RNG.integers(0, 9, 20_000)
    assert chance_summary(9) == {name: pytest.approx(value, abs=0.02) for name, value in summary(ranks(guesses, y), y, 9).items()}
