"""Every file in mmjax/fusion passes every check of `mmjax/testing/fusion.py`."""

import functools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax import config
from mmjax.study.fusions import said
from mmjax.testing import fusion


@cache
def subject(name):
    return fusion.of_fusion(config.resolve("fusion", name))


@pytest.mark.parametrize("check", fusion.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", config.names("fusion"))
def test_fusion(name, check):
    check(subject(name))


def test_the_folder_is_found():
    assert "concat" in config.names("fusion")


@pytest.mark.parametrize(
    "name", [name for name in config.names("fusion") if said(config.resolve("fusion", name), "Gaps").startswith("left out")]
)
def test_what_is_left_out_might_never_have_been_there(name):
    """Where a file's docstring says "Gaps: left out": the same weights on the other modalities alone give the same."""
    case = subject(name)
    named = {m for m in case.streams if m in vars(case.instance).values()}
    lost = next(i for i, m in enumerate(case.streams) if m not in named)
    others = tuple(i for i in range(len(case.streams)) if i != lost)
    wanted = case.evaluate(case.variables, case.with_subset(others)).pooled
    rest = fusion._FromBatch(case.instance, tuple(case.streams[i] for i in others))
    batch = case.with_subset(others)
    fits = jax.eval_shape(lambda: rest.init(jax.random.key(0), batch, train=False)).get("params", {})

    def kept(path, fit):
        leaf = functools.reduce(lambda node, key: node[key.key], path, case.variables["params"])
        return leaf if leaf.shape == fit.shape else jnp.delete(leaf, lost, axis=0)  # one number a modality

    variables = {**case.variables, "params": jax.tree_util.tree_map_with_path(kept, fits)}
    got = checks.quick(lambda variables, batch: rest.apply(variables, batch, train=False))(variables, batch)
    np.testing.assert_allclose(got["encoding"].pooled, wanted, atol=1e-5)
