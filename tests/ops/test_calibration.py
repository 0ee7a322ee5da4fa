"""Calibration errors, proper scores and temperatures: by hand, against scikit-learn, and where confidences are at the edge."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss

from mmjax.ops import calibration

RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=(400, 5)) * 2
LABELS = (TRUE + RNG.gumbel(size=TRUE.shape)).argmax(axis=1)  # drawn from the softmax of TRUE
LOGITS = (2.5 * TRUE).astype(np.float32)  # too sure of itself


def error(confidence, right, bins, equal_mass=False):
    confidence, right = np.array(confidence, float), np.array(right, bool)
    edges = calibration.equal_mass(confidence, bins) if equal_mass else calibration.equal_width(bins)
    return calibration.expected_error(calibration.binned(confidence, right, edges))


@pytest.mark.parametrize(("strategy", "bins"), [("uniform", 10), ("uniform", 7), ("quantile", 10), ("quantile", 7)])
def test_bins_are_those_of_scikit_learn(strategy, bins):
    confidence, right = calibration.confident(LOGITS, LABELS)
    edges = calibration.equal_width(bins) if strategy == "uniform" else calibration.equal_mass(confidence, bins)
    found = calibration.binned(confidence, right, edges)
    accuracy, mean = calibration_curve(right, confidence, n_bins=bins, strategy=strategy)
    np.testing.assert_allclose(found.accuracy[found.count > 0], accuracy)
    np.testing.assert_allclose(found.confidence[found.count > 0], mean)
    assert found.count.sum() == 400 and (strategy == "uniform" or np.ptp(found.count) <= 1)


def test_the_error_by_hand():
    confidence, right = [0.9, 0.9, 0.6, 0.6, 0.3], [1, 0, 1, 1, 0]
    # (0, .5]: 1 example at 0.3, none right; (.5, 1]: 4 at 0.75, 3 right
    assert error(confidence, right, 2) == pytest.approx((1 * 0.3 + 4 * 0.0) / 5)
    # (.8, 1]: 0.9 against 1/2; (.4, .6]: 0.6 against 1; (.2, .4]: 0.3 against 0
    assert error(confidence, right, 5) == pytest.approx((2 * 0.4 + 2 * 0.4 + 1 * 0.3) / 5)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_extremes(equal_mass):
    assert error([1.0] * 6, [1] * 6, 15, equal_mass) == 0, "all right, and sure of it"
    assert error([1.0] * 6, [0] * 6, 15, equal_mass) == 1, "all wrong, and sure of it"
    assert error([0.7], [1], 15, equal_mass) == pytest.approx(0.3), "one example"
    tied = ([0.7] * 6 + [0.9], [1, 0, 1, 0, 1, 0, 1])
    assert error(*tied, 5, equal_mass) == pytest.approx((6 * 0.2 + 0.1) / 7), "ties are in one bin, whatever the order"


def test_an_edge_belongs_to_the_bin_below_it():
    found = calibration.binned(np.array([0.0, 0.5, 0.5000001, 1.0]), np.ones(4, bool), calibration.equal_width(2))
    assert found.count.tolist() == [2, 2]
    empty = calibration.binned(np.array([0.95]), np.ones(1, bool), calibration.equal_width(4))
    assert empty.count.tolist() == [0, 0, 0, 1] and empty.accuracy.tolist() == [0, 0, 0, 1]


def test_scores_are_those_of_scikit_learn():
    found, p = calibration.summary(LOGITS, LABELS, 15), softmax(LOGITS.astype(float), axis=1)
    assert found["brier"] == pytest.approx(brier_score_loss(LABELS, p, labels=range(5), scale_by_half=False))
    assert found["nll"] == pytest.approx(log_loss(LABELS, p, labels=range(5)))
    assert list(found) == ["ece", "ece_equal_mass", "brier", "nll"] and found["ece"] > 0.05


class Given(ClassifierMixin, BaseEstimator):
    """What has nothing to learn: its features are the logits."""

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, x):
        return x

    def predict(self, x):
        return self.classes_[x.argmax(axis=1)]


def test_the_temperature_is_that_of_scikit_learn_and_of_the_labels():
    t = calibration.temperature(LOGITS, LABELS)
    scaled = CalibratedClassifierCV(FrozenEstimator(Given().fit(LOGITS, LABELS)), method="temperature").fit(LOGITS, LABELS)
    np.testing.assert_allclose(softmax(LOGITS / t, axis=1), scaled.predict_proba(LOGITS), atol=1e-3)
    assert t == pytest.approx(2.5, rel=0.15)
    nll = [calibration.nll(log_softmax(LOGITS / (t * f), axis=1), LABELS) for f in (0.99, 1.0, 1.01)]
    assert nll[1] < min(nll[0], nll[2])
    assert calibration.summary(LOGITS / t, LABELS, 15)["ece"] < 0.5 * calibration.summary(LOGITS, LABELS, 15)["ece"]


def test_temperatures_that_no_data_bound():
    eye = np.eye(3, dtype=np.float32)
    assert calibration.temperature(eye, np.arange(3)) == calibration.TEMPERATURES[0], "all are right"
    assert calibration.temperature(eye, np.array([1, 2, 0])) == calibration.TEMPERATURES[1], "all are wrong"
    assert calibration.temperature(np.ones((3, 3), np.float32), np.arange(3)) == 1, "all temperatures are the same"
