"""What a teacher teaches, against scipy's softmax and relative entropy; and what it cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from mmjax.config import ConfigError
from mmjax.nn.model import ModuleModel
from mmjax.objectives.teacher import Teacher, _Tiny
from mmjax.testing.objectives import loss_of, outputs_of

PAIR = ("series_a", "series_b")
MODEL = ModuleModel(_Tiny())


def case(**arguments):
    """The objective, its own, the student's outputs, and the teacher's, on a batch whose fourth row has one stream alone."""
    objective = Teacher(MODEL, **arguments)
    _, batch = Teacher.tiny()
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    outputs = outputs_of(batch)
    params, aux = objective.init(jax.random.key(1), batch, outputs)
    taught, _ = MODEL.apply(aux, batch, train=False)
    return objective, params, aux, batch, outputs, {name: np.asarray(x, np.float64) for name, x in taught.items()}


def test_logits_at_a_temperature():
    objective, params, aux, batch, outputs, taught = case(logits=["label"], temperature=3.0)
    loss = loss_of(objective, params, outputs, batch, aux)
    p, q = (softmax(np.asarray(x["label/logits"], np.float64) / 3, axis=1) for x in (taught, outputs))
    np.testing.assert_allclose(loss.terms["logits/label"], 9 * rel_entr(p, q).sum(axis=1).mean(), rtol=1e-5)
    assert loss.aux is aux and not params


def test_features_through_a_matrix_where_widths_differ():
    objective, params, aux, batch, outputs, taught = case(features=["series_a/z"], weights={"features": 0.5})
    (matrix,) = params.values()
    difference = np.asarray(outputs["series_a/z"] @ matrix) - taught["series_a/z"]
    wanted = np.square(difference).mean(axis=1)[np.arange(8) != 3].mean()
    np.testing.assert_allclose(loss_of(objective, params, outputs, batch, aux).terms["features/series_a/z"], 0.5 * wanted, rtol=1e-5)


def test_affinities_among_the_rows_that_have_both():
    objective, params, aux, batch, outputs, taught = case(affinities=[PAIR], scale=5.0)
    rows = np.arange(8) != 3
    theirs, ours = (5.0 * (np.asarray(x["series_a/z"]) @ np.asarray(x["series_b/z"]).T)[rows][:, rows] for x in (taught, outputs))
    wanted = [rel_entr(softmax(a, axis=1), softmax(b, axis=1)).sum(axis=1).mean() for a, b in ((theirs, ours), (theirs.T, ours.T))]
    loss = loss_of(objective, params, outputs, batch, aux)
    np.testing.assert_allclose(loss.terms["affinities/series_a_series_b"], np.mean(wanted), rtol=1e-4)
    assert objective.batch_wise and not Teacher(MODEL, logits=["label"]).batch_wise


def test_a_student_that_says_the_same_has_nothing_to_learn():
    objective, _, aux, batch, _, taught = case(features=["series_a/z"], logits=["label"], affinities=[PAIR])
    same = {name: jnp.asarray(x, jnp.float32) for name, x in taught.items()}
    terms = loss_of(objective, {}, same, batch, aux).terms
    np.testing.assert_allclose([*terms.values()], np.zeros(3), atol=1e-6)


def test_what_a_teacher_cannot_teach():
    with pytest.raises(ConfigError, match="nothing is taught"):
        Teacher(MODEL)
    with pytest.raises(ConfigError, match=r"teacher.weights: 'logit' is unknown. Did you mean 'logits'"):
        Teacher(MODEL, logits=["label"], weights={"logit": 1.0})
    with pytest.raises(ConfigError, match="the student's model gives no 'labels/logits'.*Did you mean 'label/logits'"):
        case(logits=["labels"])
    batch = {name: jnp.asarray(x) for name, x in Teacher.tiny()[1].items()}
    encoded = {**batch, "series_b/pooled": jnp.ones((8, 4))}
    with pytest.raises(ConfigError, match="'series_b' comes as the student's encoder gives it: leave it out of data.encoded"):
        loss_of(Teacher(MODEL, logits=["label"]), {}, outputs_of(batch), encoded, MODEL.init(jax.random.key(0), batch))
    wide = {**outputs_of(batch), "label/logits": jnp.zeros((8, 5))}
    with pytest.raises(ConfigError, match="'label' has 5 classes, and 3 with the teacher"):
        Teacher(MODEL, logits=["label"]).init(jax.random.key(0), batch, wide)
