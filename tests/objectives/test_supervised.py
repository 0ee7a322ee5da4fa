"""Losses of predictions against PyTorch (`tests/golden/make_supervised.py`) and closed forms; rows without a target; learned weights."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import loss_of, start

from checks import quick
from mmjax.config import ConfigError
from mmjax.objectives.auxiliary import Auxiliary
from mmjax.objectives.bce import BCE
from mmjax.objectives.cross_entropy import CrossEntropy
from mmjax.objectives.ordinal import Ordinal
from mmjax.objectives.regression import Regression

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "supervised.npz")
LOGITS, LABELS, TAGS, VALUES = (jnp.asarray(GOLDEN[k]) for k in ("logits", "labels", "tags", "values"))
WEIGHTS = GOLDEN["weights"].tolist()
CASES = {
    "cross_entropy": (CrossEntropy(), LABELS),
    "cross_entropy_smoothed": (CrossEntropy(smoothing=0.1), LABELS),
    "cross_entropy_weighted": (CrossEntropy(class_weights=WEIGHTS), LABELS),
    "cross_entropy_both": (CrossEntropy(class_weights=WEIGHTS, smoothing=0.1), LABELS),
    "bce": (BCE(), TAGS),
    "bce_weighted": (BCE(positive_weights=WEIGHTS), TAGS),
    "l1": (Regression(loss="l1"), VALUES),
    "l2": (Regression(loss="l2"), VALUES),
    "huber": (Regression(loss="huber", delta=0.7), VALUES),
}


def loss(objective, output, target, params=None, **more):
    batch = {objective.target: target, **more}
    return loss_of(objective, params or {}, {objective.output: output}, batch)


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_pytorchs_whatever_stands_in_rows_without_a_target(case):
    objective, target = CASES[case]

    @quick
    @jax.value_and_grad
    def run(x):
        padded = jnp.concatenate([x, jnp.full((2, 4), jnp.nan)])
        y = jnp.concatenate([target, jnp.ones((2, *target.shape[1:]), target.dtype)])
        found = loss(objective, padded, y, **{f"{objective.target}/present": jnp.arange(9) < 7})
        return found.terms[objective.target]

    value, grad = run(LOGITS)
    np.testing.assert_allclose(value, GOLDEN[f"{case}/loss"], rtol=2e-6)
    np.testing.assert_allclose(grad, GOLDEN[f"{case}/grad"], atol=1e-6)


def test_the_focal_factor():
    p = np.exp(np.asarray(jax.nn.log_softmax(LOGITS)))[np.arange(7), LABELS]
    found = loss(CrossEntropy(focal=2.0), LOGITS, LABELS).terms["label"]
    np.testing.assert_allclose(found, np.mean(-((1 - p) ** 2) * np.log(p)), rtol=1e-5)
    q = np.where(TAGS, 1 / (1 + np.exp(-LOGITS)), 1 / (1 + np.exp(LOGITS)))
    found = loss(BCE(focal=1.5), LOGITS, TAGS).terms["tags"]
    np.testing.assert_allclose(found, np.mean(-((1 - q) ** 1.5) * np.log(q)), rtol=1e-5)


def test_ordinal_is_a_sum_over_thresholds_by_a_loop():
    logits, label = np.asarray(LOGITS)[:, :3], np.asarray(LABELS)
    wanted = 0.0
    for row, y in zip(logits, label, strict=True):
        for k, x in enumerate(row):
            wanted += math.log1p(math.exp(-x if y > k else x)) / len(label)
    found = loss(Ordinal(), jnp.asarray(logits), LABELS)
    np.testing.assert_allclose(found.terms["label"], wanted, rtol=1e-5)
    np.testing.assert_allclose(found.metrics["label/mae"], np.abs((logits > 0).sum(1) - label).mean(), rtol=1e-6)


def test_concordance_by_hand():
    x, y = np.asarray(LOGITS, np.float64), np.asarray(VALUES, np.float64)
    ccc = [2 * np.cov(a, b, bias=True)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2) for a, b in zip(x.T, y.T, strict=True)]
    np.testing.assert_allclose(loss(Regression(loss="ccc"), LOGITS, VALUES).terms["value"], 1 - np.mean(ccc), rtol=1e-5)
    np.testing.assert_allclose(loss(Regression(loss="ccc"), VALUES, VALUES).terms["value"], 0.0, atol=1e-6)
    assert Regression(loss="ccc").batch_wise and not Regression().batch_wise


def test_a_learned_weight_settles_at_the_loss():
    """exp(-s) L + s / 2 is least at s = log 2 L, and exp(-s) / 2 L + s / 2 at s = log L: Kendall et al., 2018, eq. 7."""
    for objective, target, best in ((CrossEntropy(learned_weight=True), LABELS, 2.0), (Regression(learned_weight=True), VALUES, 1.0)):
        plain = float(loss(type(objective)(), LOGITS, target).terms[objective.target])
        slope = jax.grad(lambda s, o=objective, t=target: loss(o, LOGITS, t, {"log_variance": s}).terms[o.target])
        np.testing.assert_allclose(slope(jnp.float32(math.log(best * plain))), 0.0, atol=1e-6)
        assert start(objective, {objective.target: target, objective.output: LOGITS})[0] == {"log_variance": 0}


def test_auxiliary_losses_have_their_weights_and_count_rows_with_something():
    outputs = {"aux/kl": jnp.array([1.0, 3.0, jnp.nan]), "aux/balance": jnp.array([2.0, 2.0, jnp.nan])}
    batch = {"image": jnp.zeros((3, 2)), "image/present": jnp.array([True, True, False])}
    found = loss_of(Auxiliary({"kl": 0.5}), {}, outputs, batch)
    assert {k: float(v) for k, v in found.terms.items()} == {"kl": 1.0, "balance": 2.0} and found.weight == 2
    assert float(loss_of(Auxiliary({"kl": 0.5}, default=0.0), {}, outputs, batch).terms["balance"]) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(smoothing=1.0), r"smoothing=1.0 should be in \[0, 1\)"),
        (lambda: CrossEntropy(smoothing=0.1, focal=2.0), "one of them 0"),
        (lambda: CrossEntropy(class_weights=[0, 0]), "not all 0"),
        (lambda: CrossEntropy(target="tags"), "target='tags' should be a 'label'"),
        (lambda: BCE(positive_weights=[0.0]), "above 0"),
        (lambda: Regression(loss="l3"), "loss='l3' is unknown. Did you mean"),
        (lambda: Regression(delta=0), "delta=0 should be above 0"),
        (lambda: start(CrossEntropy(), {"label": LABELS, "lable/logits": LOGITS}), "gives no 'label/logits'. Did you mean 'lable/logits'"),
        (lambda: start(CrossEntropy(), {"label_a": LABELS, "label/logits": LOGITS}), "the data have no 'label'"),
        (lambda: start(CrossEntropy(class_weights=[1, 2]), {"label": LABELS, "label/logits": LOGITS}), "2 class_weights for 4 classes"),
        (lambda: start(BCE(), {"tags": TAGS[:, :3], "tags/logits": LOGITS}), r"has the shape \(7, 4\) and the target \(7, 3\)"),
        (lambda: start(Auxiliary({"k": 1}), {"series": LOGITS, "aux/kl": LOGITS[:, 0]}), "brings a loss 'k'. Did you mean 'kl'"),
        (lambda: start(Auxiliary(), {"series": LOGITS}), "no part of the model brings a loss"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
