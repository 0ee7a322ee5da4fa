"""The dynamic fusion graph against its vertices written out, and what is in its efficacies. Against published code: `test_mfn.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.fusion.dynamic_fusion_graph import DynamicFusionGraph
from mmjax.nn.fusion_graph import edges


def with_efficacies(module, variables, given):
    got, kept = checks.quick(lambda v, x: module.apply(v, x, train=False, mutable=["intermediates"]))(variables, given)
    return got.pooled, kept["intermediates"]["efficacies"][0]


def test_the_edges_of_three_modalities():
    found = edges(("a", "b", "c"))
    assert len(found) == 3**3 - 2**3
    assert found[:2] == [("a", "a+b"), ("b", "a+b")] and found[-1] == ("a+b+c", "top")
    assert [part for part, into in found if into == "a+b+c"] == ["a", "b", "c", "a+b", "a+c", "b+c"]


def test_every_vertex_written_out():
    """Not independent: numpy by the equations."""
    given = encodings(audio=(3, 2), image=(3, 4), text=(3, 3))
    module = DynamicFusionGraph(width=4, hidden=5)
    variables = checks.drawn(module, given, train=False)
    p = jax.tree.map(np.asarray, variables["params"])

    def layer(part, x):
        return x @ part["kernel"] + part["bias"]

    def network(name, *inputs):
        hidden = np.maximum(layer(p["graph"][f"{name}_in"], np.concatenate(inputs, axis=1)), 0)
        return layer(p["graph"][f"{name}_out"], hidden)

    a, i, t = (np.maximum(layer(p[f"{m}_in"], np.asarray(given[m].pooled)), 0) for m in ("audio", "image", "text"))
    e = 1 / (1 + np.exp(-network("efficacy", a, i, t)))[:, :, None]
    ai = np.maximum(network("audio+image", e[:, 0] * a, e[:, 1] * i), 0)
    at = np.maximum(network("audio+text", e[:, 2] * a, e[:, 3] * t), 0)
    it = np.maximum(network("image+text", e[:, 4] * i, e[:, 5] * t), 0)
    inner = [e[:, 6 + k] * v for k, v in enumerate((a, i, t, ai, at, it))]
    ait = np.maximum(network("audio+image+text", *inner), 0)
    wanted = network("top", *(e[:, 12 + k] * v for k, v in enumerate((a, i, t, ai, at, it, ait))))
    got, efficacies = with_efficacies(module, variables, given)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(efficacies, e[:, :, 0], atol=1e-5)


def test_an_edge_of_efficacy_0_lets_nothing_through():
    """The vertex of two modalities reaches the top by one edge: without it, its network does not matter."""
    given = encodings(audio=(3, 2), text=(3, 3))
    module = DynamicFusionGraph(width=4, hidden=5)
    variables = checks.drawn(module, given, train=False)
    bias = variables["params"]["graph"]["efficacy_out"]["bias"]
    place = edges(("audio", "text")).index(("audio+text", "top"))
    variables["params"]["graph"]["efficacy_out"]["bias"] = bias.at[place].set(-1e4)
    other = jax.tree.map(jnp.array, variables)
    other["params"]["graph"]["audio+text_out"]["kernel"] += 3.0
    np.testing.assert_allclose(fused(module, other, given).pooled, fused(module, variables, given).pooled, atol=1e-6)
    variables["params"]["graph"]["efficacy_out"]["bias"] = other["params"]["graph"]["efficacy_out"]["bias"] = bias
    assert np.abs(fused(module, other, given).pooled - fused(module, variables, given).pooled).max() > 1e-2


def test_too_many_modalities():
    given = encodings(**{f"series_{i}": (1, 2) for i in range(7)})
    with pytest.raises(ConfigError, match="the subsets of 7 modalities has 2,059 edges"):
        jax.eval_shape(lambda: DynamicFusionGraph().init(jax.random.key(0), given, train=False))
