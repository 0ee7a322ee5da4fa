"""RMFN against its equations written out; what its highlights are, and what a step without a token changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.fusion.rmfn import Rmfn

FIELDS = {"width": 3, "fused": 4, "hidden": 5, "stages": 3, "align": "mean", "main": "text"}


def given():
    """Two modalities with a token each at every step."""
    found = {}
    for m, e in encodings(audio=(3, 2), text=(3, 4)).items():
        found[m] = e._replace(valid=jnp.ones((3, 3), bool), time=jnp.broadcast_to(jnp.arange(3.0), (3, 3)))
    return found


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x)
    return e / e.sum(axis=1, keepdims=True)


def lstm(gates, cell):
    i, f, g, o = np.split(gates, 4, axis=1)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def test_the_equations_written_out():
    """Not independent: numpy by the paper's equations, as no published code of the whole network was at hand."""
    x, module = given(), Rmfn(**FIELDS)
    variables = checks.drawn(module, x, train=False)
    p = jax.tree.map(np.asarray, variables["params"])
    s = p["step"]

    def dense(layer, x):
        return x @ layer["kernel"] + layer.get("bias", 0)

    h, c, z = ({m: np.zeros((3, 3)) for m in x} for _ in "hc"), None, np.zeros((3, 4))
    h, c = h
    wanted, weights = [], []
    for t in range(3):
        for m, e in x.items():
            gates = dense(p[f"{m}_in"], np.asarray(e.tokens[:, t])) + dense(s[f"{m}_recurrent"], h[m]) + dense(s[f"{m}_fused"], z)
            h[m], c[m] = lstm(gates, c[m])
        outputs = np.concatenate([h["audio"], h["text"]], axis=1)
        look = look_cell = fuse = fuse_cell = np.zeros((3, 5))
        fusions = []
        for _ in range(3):
            look, look_cell = lstm(dense(s["highlight_in"], outputs) + dense(s["highlight_recurrent"], look), look_cell)
            weights.append(softmax(dense(s["highlight_out"], look)))
            fuse, fuse_cell = lstm(dense(s["fuse_in"], weights[-1] * outputs) + dense(s["fuse_recurrent"], fuse), fuse_cell)
            fusions.append(fuse)
        z = dense(s["summarize"], np.concatenate(fusions, axis=1))
        wanted.append(np.concatenate([outputs, z], axis=1))
    got, kept = checks.quick(lambda v, x: module.apply(v, x, train=False, mutable=["intermediates"]))(variables, x)
    np.testing.assert_allclose(got.tokens, np.stack(wanted, axis=1), atol=1e-5)
    np.testing.assert_allclose(got.pooled, wanted[-1], atol=1e-5)
    (highlights,) = kept["intermediates"]["highlights"]
    np.testing.assert_allclose(highlights, np.stack(weights, axis=1).reshape(3, 3, 3, 6), atol=1e-5)


def test_a_padded_step_leaves_the_state_as_it_is():
    x, module = given(), Rmfn(**FIELDS)
    variables = checks.drawn(module, x, train=False)
    keep = np.array([0, 2, 3])

    def spread(part, fill):
        return jnp.full((3, 5, *part.shape[2:]), fill, part.dtype).at[:, keep].set(part)

    e = x["text"]
    wide = e._replace(tokens=spread(e.tokens, jnp.nan), valid=spread(e.valid, False), time=spread(e.time, jnp.nan))
    wanted, got = fused(module, variables, x), fused(module, variables, {**x, "text": wide})
    np.testing.assert_allclose(got.pooled, wanted.pooled, atol=1e-5)
    np.testing.assert_allclose(got.tokens[:, keep], wanted.tokens, atol=1e-5)


def test_no_stages():
    with pytest.raises(ConfigError, match="fusion.stages=0 should be at least 1"):
        Rmfn(stages=0).init(jax.random.key(0), given(), train=False)
