"""The rules of decision-level fusion are what they say of probabilities, over the modalities that a row has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings
from mmjax.config import ConfigError
from mmjax.fusion.decision import RULES, Decision


def test_rules():
    given = encodings(audio=(3, 4), image=(2, 4), text=(5, 4))
    given["image"] = given["image"]._replace(present=given["image"].present.at[0].set(False))
    for e in given.values():
        assert e.pooled.shape == (3, 4)
    p = np.stack([jax.nn.softmax(e.pooled) for e in given.values()])  # M x [B, K]
    w = np.array([0.2, 0.3, 0.5], np.float32)
    params = {
        "weights": {"weights": jnp.log(w)},
        "stacking": {"out": {"kernel": jnp.stack([k * jnp.eye(4) for k in w]), "bias": jnp.zeros(4)}},
    }
    got = {}
    for rule in RULES:
        got[rule] = Decision(rule=rule).apply({"params": params.get(rule, {})}, given, train=False).pooled

    here = np.array([0, 2])  # of the first row
    np.testing.assert_allclose(np.exp(got["average"])[1:], p.mean(axis=0)[1:], rtol=1e-5)
    np.testing.assert_allclose(np.exp(got["average"])[0], p[here, 0].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.exp(got["weights"])[1:], np.einsum("m,mbk->bk", w, p)[1:], rtol=1e-5)
    np.testing.assert_allclose(np.exp(got["weights"])[0], (0.2 * p[0, 0] + 0.5 * p[2, 0]) / 0.7, rtol=1e-5)
    product = p.prod(axis=0)
    np.testing.assert_allclose(np.exp(got["product"])[1:], (product / product.sum(axis=1, keepdims=True))[1:], rtol=1e-5)
    product = p[here, 0].prod(axis=0)
    np.testing.assert_allclose(np.exp(got["product"])[0], product / product.sum(), rtol=1e-5)
    np.testing.assert_allclose(got["stacking"][1:], np.einsum("m,mbk->bk", w, np.log(p))[1:], rtol=1e-4)
    np.testing.assert_allclose(got["stacking"][0], 0.2 * np.log(p[0, 0]) + 0.5 * np.log(p[2, 0]), rtol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_sure_and_absent_modalities_leave_all_finite(rule):
    given = encodings(image=(2, 4), text=(5, 4))
    sure = {
        m: e._replace(pooled=jnp.array([[1e4, 0, 0, -1e4]] * 3), present=jnp.array([True, False, m == "text"])) for m, e in given.items()
    }
    module = Decision(rule=rule)
    variables = module.init(jax.random.key(0), sure, train=False)

    def loss(variables, pooled):
        encodings = {m: e._replace(pooled=pooled[m]) for m, e in sure.items()}
        out = module.apply(variables, encodings, train=False).pooled
        return (out * jnp.arange(12, dtype=jnp.float32).reshape(3, 4)).sum(), out

    (_, out), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables, {m: e.pooled for m, e in sure.items()})
    checks.assert_finite((out, grads), rule)
    if rule != "stacking":
        np.testing.assert_allclose(np.exp(out[1]), 0.25, rtol=1e-5)  # nothing there: all classes are equal


def test_a_rule_or_classes_that_do_not_fit():
    with pytest.raises(ConfigError, match="rule='mean' is unknown"):
        Decision(rule="mean").init(jax.random.key(0), encodings(text=(3, 4)), train=False)
    with pytest.raises(ConfigError, match="different numbers of classes: {'image': 6, 'text': 4}"):
        Decision().init(jax.random.key(0), encodings(image=(3, 6), text=(3, 4)), train=False)
