"""Scores of classes, tags and numbers against scikit-learn and scipy, with ties and with classes that have no example."""

import warnings

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn import metrics

from mmjax.evals.classification import ordinal_scores
from mmjax.ops import classification, regression

RNG = np.random.default_rng(0)
LABELS = RNG.choice([0, 1, 2, 4], 60, p=[0.5, 0.3, 0.1, 0.1])  # none is 3
SCORES = np.round(RNG.normal(size=(60, 5)) + 1.5 * np.eye(5)[LABELS], 1).astype(np.float32)  # with ties
TAGS = np.concatenate([RNG.random((60, 4)) < 0.3, np.zeros((60, 1), bool)], axis=1)  # the last never holds


def test_single_classes():
    found, taken = classification.single_summary(SCORES, LABELS), SCORES.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # y_pred has a class that y_true has not
        wanted = {
            "accuracy": metrics.accuracy_score(LABELS, taken),
            "balanced_accuracy": metrics.balanced_accuracy_score(LABELS, taken),
            "f1_macro": metrics.f1_score(LABELS, taken, average="macro"),
        }
    there = [0, 1, 2, 4]
    wanted["map"] = np.mean([metrics.average_precision_score(c == LABELS, SCORES[:, c]) for c in there])
    wanted["auroc"] = np.mean([metrics.roc_auc_score(c == LABELS, SCORES[:, c]) for c in there])
    assert found == pytest.approx(wanted)
    assert (classification.confusion(taken, LABELS, 5) == metrics.confusion_matrix(LABELS, taken, labels=range(5))).all()


def test_tags():
    found, taken = classification.multilabel_summary(SCORES, TAGS), SCORES > 0
    wanted = {f"f1_{a}": metrics.f1_score(TAGS, taken, average=a, zero_division=0) for a in ("micro", "macro")}
    wanted["map"] = np.mean([metrics.average_precision_score(TAGS[:, c], SCORES[:, c]) for c in range(4)])
    wanted["auroc"] = np.mean([metrics.roc_auc_score(TAGS[:, c], SCORES[:, c]) for c in range(4)])
    assert found == pytest.approx(wanted)
    precision, recall, f1 = classification.by_class(taken, TAGS)
    for got, name in ((precision, "precision"), (recall, "recall"), (f1, "f1")):
        scorer = getattr(metrics, f"{name}_score")
        np.testing.assert_allclose(got, scorer(TAGS, taken, average=None, zero_division=0))


def test_a_constant_has_the_area_of_chance_and_the_precision_of_the_prevalence():
    same, positive = np.zeros(60, np.float32), TAGS[:, 0]
    assert classification.auroc(same, positive) == 0.5
    assert classification.average_precision(same, positive) == pytest.approx(positive.mean())
    assert np.isnan(classification.auroc(same, TAGS[:, 4])) and np.isnan(classification.average_precision(same, TAGS[:, 4]))


def test_ordered_classes_are_answered_by_the_thresholds_passed():
    logits = np.sort(RNG.normal(size=(30, 3)) * 2, axis=1)[:, ::-1].astype(np.float32)
    scores = ordinal_scores(logits)
    assert scores.shape == (30, 4) and (scores.argmax(axis=1) == (logits > 0).sum(axis=1)).all()
    np.testing.assert_allclose(scores.sum(axis=1), 2, rtol=1e-6)  # a distribution, and 1 for the answer


def test_numbers():
    y = RNG.normal(size=(40, 2)).astype(np.float32)
    x = (0.7 * y + 0.3 * RNG.normal(size=y.shape) + 0.2).astype(np.float32)
    found = regression.summary(x, y)
    ccc = [2 * np.cov(a, b, bias=True)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2) for a, b in zip(x.T, y.T, strict=True)]
    wanted = {
        "mae": metrics.mean_absolute_error(y, x),
        "rmse": metrics.root_mean_squared_error(y, x),
        "pearson": np.mean([pearsonr(a, b)[0] for a, b in zip(x.T, y.T, strict=True)]),
        "ccc": np.mean(ccc),
    }
    assert found == pytest.approx(wanted, rel=1e-5)
    assert regression.summary(np.ones_like(y), y)["pearson"] == 0
