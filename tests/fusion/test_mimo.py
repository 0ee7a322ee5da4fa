"""MIMO: what is shuffled and what comes back; with nothing shuffled, the equations in numpy. Not independent of a published program."""

import jax
import jax.numpy as jnp
import numpy as np
from products import drawn, encodings

import checks
from made import fused
from mmjax.fusion.mimo import Mimo, shuffled

X = {"a": drawn(6, 3), "b": drawn(6, 4, seed=1)}
GIVEN = encodings([("b", 2)], **X)


def test_rows_that_stay_stay_and_the_others_come_back():
    stay = jnp.arange(200) % 4 == 0
    rows, back = checks.quick(shuffled)(jax.random.key(0), stay)
    np.testing.assert_array_equal(rows[back], np.arange(200))
    np.testing.assert_array_equal(np.asarray(rows)[stay], np.arange(0, 200, 4))
    assert (np.asarray(rows) != np.arange(200)).sum() > 140


def network(p, a, b):
    """Both heads for inputs of the two modalities, in numpy."""

    def layer(name, x):
        return x @ p[name]["kernel"] + p[name]["bias"]

    x = layer("a_in", a) + layer("b_in", b)
    x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6) * p["norm_0"]["scale"] + p["norm_0"]["bias"]
    x = np.maximum(layer("dense_0", np.maximum(x, 0)), 0)
    return layer("a_out", x), layer("b_out", x)


def test_in_evaluation_it_is_the_mean_of_the_subnetworks_of_what_is_there():
    module = Mimo(5, depth=1)
    variables = checks.drawn(module, GIVEN, train=False)
    first, second = network(jax.tree.map(np.asarray, variables["params"]), X["a"], np.where(np.arange(6)[:, None] == 2, 0, X["b"]))
    wanted = np.where(np.arange(6)[:, None] == 2, first, (first + second) / 2)
    np.testing.assert_allclose(fused(module, variables, GIVEN).pooled, wanted, atol=1e-5)


def test_in_training_a_row_gets_one_of_its_subnetworks_beside_inputs_of_some_other_row():
    """Whatever the draws: a row's vector is that of an own modality's end, for one of the six rows at the other input."""
    module = Mimo(5, depth=1)
    variables = checks.drawn(module, GIVEN, train=False)
    step = checks.quick(lambda key: module.apply(variables, GIVEN, train=True, rngs={"dropout": key}).pooled)
    p, zeroed = jax.tree.map(np.asarray, variables["params"]), np.where(np.arange(6)[:, None] == 2, 0, X["b"])
    seen = set()
    for seed in range(4):
        got = np.asarray(step(jax.random.key(seed)))
        for row in range(6):
            a, b = np.repeat(X["a"][[row]], 6, axis=0), np.repeat(zeroed[[row]], 6, axis=0)
            ends = {"a": network(p, a, zeroed)[0], "b": network(p, X["a"], b)[1]}
            found = [(m, other) for m, y in ends.items() for other in range(6) if np.allclose(y[other], got[row], atol=1e-5)]
            assert len(found) == 1
            assert row != 2 or found[0][0] == "a", "it has no b"
            seen.add((found[0][0], found[0][1] == row))
    assert {("a", False), ("b", False)} <= seen
