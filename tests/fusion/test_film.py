"""FiLM against its published code; the identity where nothing modulates; a row without the main modality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from products import dense, drawn, encodings, golden, inputs

import checks
from made import fused
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.film import FiLM


def feature_map(present=(True, True, True)):
    """The golden feature map [3, 7, 2, 3], a token a place; absent rows hold NaN."""
    present = jnp.array(present)
    tokens = jnp.asarray(golden("film")["features"].reshape(3, 7, 6).transpose(0, 2, 1))
    tokens = jnp.where(present[:, None, None], tokens, jnp.nan)
    return Encoding(tokens, jnp.broadcast_to(present[:, None], (3, 6)), tokens.mean(axis=1), present)


def test_it_is_the_published_generator_and_layer():
    case = golden("film")
    x = {**inputs(0), "main": feature_map()}
    got = fused(FiLM("main"), {"params": {"a_film": dense(case["weight"].T, case["bias"])}}, x)
    wanted = case["y"].reshape(3, 7, 6)
    np.testing.assert_allclose(got.tokens, wanted.transpose(0, 2, 1), atol=2e-6)
    np.testing.assert_allclose(got.pooled, wanted.mean(axis=2), atol=2e-6)  # the mean of what is modulated


def test_a_generator_of_zeros_and_absent_conditions_are_the_identity():
    x = {**encodings(absent=[("a", 0), ("b", 0)], a=drawn(3, 4), b=drawn(3, 5)), "main": feature_map()}
    variables = checks.drawn(FiLM("main"), x, train=False)
    for rows, params in ((3, jax.tree.map(jnp.zeros_like, variables)), (1, variables)):
        got = fused(FiLM("main"), params, x)
        np.testing.assert_array_equal(got.tokens[:rows], x["main"].tokens[:rows])
        np.testing.assert_array_equal(got.pooled[:rows], x["main"].pooled[:rows])


def test_without_the_main_modality_there_is_beta():
    case, x = golden("film"), {**inputs(0), "main": feature_map([True, False, True])}
    got = fused(FiLM("main"), {"params": {"a_film": dense(case["weight"].T, case["bias"])}}, x)
    beta = x["a"].pooled[1] @ case["weight"].T[:, 7:] + case["bias"][7:]
    assert got.valid[1].tolist() == [True] + [False] * 5 and got.present.all()
    np.testing.assert_allclose(got.pooled[1], beta, atol=1e-6)
    np.testing.assert_allclose(got.tokens[1, 0], beta, atol=1e-6)


def test_a_main_modality_that_is_not_there():
    with pytest.raises(ConfigError, match="fusion.main='mian' is no modality of the model. Did you mean 'main'?"):
        FiLM("mian").init({}, {"main": feature_map()}, train=False)
