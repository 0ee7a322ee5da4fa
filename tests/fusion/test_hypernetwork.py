"""The hypernetwork against its equation, weight by weight, in numpy: not independent of a published program."""

import jax
import numpy as np
from products import drawn, encodings

import checks
from made import fused
from mmjax.fusion.hypernetwork import Hypernetwork

X = {"a": drawn(3, 2), "b": drawn(3, 4, seed=1), "c": drawn(3, 3, seed=2)}
MODULE = Hypernetwork(main="b", width=5, inner=4, embedding=3)


def layer(p, name, x):
    return x @ p[name]["kernel"] + p[name]["bias"]


def test_makes_a_layer_row_by_row_for_each_further_modality():
    given = encodings([("b", 1), ("c", 2)], **X)
    variables = checks.drawn(MODULE, given, train=False)
    p = jax.tree.map(np.asarray, variables["params"])
    got = fused(MODULE, variables, given).pooled
    for row in range(3):
        said = layer(p, "b_embedding", X["b"][row]) if row != 1 else 0
        wanted = layer(p, "b_out", X["b"][row]) if row != 1 else 0
        for m in "ac" if row != 2 else "a":
            z = np.tanh(said + p[f"{m}_embedding"][0])
            first = [(p["first"]["kernel"][:, 3 * i : 3 * i + 3], p["first"]["bias"][3 * i : 3 * i + 3]) for i in range(4)]
            rows = [layer(p, "second", z @ w + b) for w, b in first]  # eq. 2, for each input of the layer
            x = np.maximum(layer(p, f"{m}_in", X[m][row]), 0)
            wanted = wanted + x @ np.stack(rows) + layer(p, "shift", z)
        np.testing.assert_allclose(got[row], wanted, rtol=1e-4, atol=1e-5)


def test_it_starts_with_a_variance_of_about_one_from_every_modality():
    x = {m: drawn(200, 32, seed=i) for i, m in enumerate("ab")}
    module, given = Hypernetwork(main="a", width=64), encodings(**x)
    variables = checks.quick(lambda: module.init(jax.random.key(0), given, train=False))()
    alone = encodings([("a", row) for row in range(200)], **x)
    assert 0.5 < fused(module, variables, alone).pooled.std() < 1.5
    assert 0.7 < fused(module, variables, given).pooled.std() < 2


def test_it_has_the_same_number_of_weights_in_the_hypernetwork_for_any_number_of_layers():
    def size(x):
        shapes = jax.eval_shape(lambda: MODULE.init(jax.random.key(0), encodings(**x), train=False))["params"]
        return sum(leaf.size for name in ("first", "second", "shift") for leaf in jax.tree.leaves(shapes[name]))

    assert size(X) == size({m: X[m] for m in "ab"})
