"""Deep sets: the order of tokens, and under the sum that sets add up; the equation in numpy, not independent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.deep_sets import DeepSets

GIVEN = encodings(image=(5, 6), text=(3, 4))


def layer(p, name, x):
    return x @ p[name]["kernel"] + p[name]["bias"]


@pytest.mark.parametrize("pool", ["sum", "mean", "max"])
def test_is_rho_of_the_pooled_phi_in_whatever_order(pool):
    module = DeepSets(8, pool)
    variables = checks.drawn(module, GIVEN, train=False)
    p = jax.tree.map(np.asarray, variables["params"])
    got = fused(module, variables, GIVEN)
    for row in range(3):
        elements = [layer(p, "phi", np.maximum(layer(p, f"{m}_in", np.asarray(e.tokens[row])[e.valid[row]]), 0)) for m, e in GIVEN.items()]
        inside = getattr(np.concatenate(elements), pool)(axis=0)
        np.testing.assert_allclose(got.pooled[row], layer(p, "rho", np.maximum(layer(p, "rho_hidden", inside), 0)), rtol=1e-4, atol=1e-5)
    turned = {m: e._replace(tokens=e.tokens[:, ::-1], valid=e.valid[:, ::-1]) for m, e in GIVEN.items()}
    np.testing.assert_allclose(fused(module, variables, turned).pooled, got.pooled, atol=1e-5)


@pytest.mark.parametrize(("pool", "counts"), [("sum", True), ("mean", False), ("max", False)])
def test_only_the_sum_counts(pool, counts):
    """Every token twice is another set for the sum alone."""
    module = DeepSets(8, pool)
    variables = checks.drawn(module, GIVEN, train=False)

    def twice(e):
        return Encoding(*(jnp.concatenate([x, x], axis=1) for x in (e.tokens, e.valid)), e.pooled, e.present)

    change = fused(module, variables, {m: twice(e) for m, e in GIVEN.items()}).pooled - fused(module, variables, GIVEN).pooled
    assert (np.abs(change).max() > 1e-2) == counts


def test_an_unknown_pool():
    with pytest.raises(ConfigError, match="fusion.pool='maximum' is unknown. Did you mean 'max'?"):
        DeepSets(pool="maximum").init({}, GIVEN, train=False)
