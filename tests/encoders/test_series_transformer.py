"""What is particular to the transformer over patches of a series."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.config import ConfigError
from mmjax.encoders.series_transformer import SeriesTransformer
from mmjax.nn.positions import sincos_1d

X, VALID = (jnp.asarray(SeriesTransformer.tiny()[1][name]) for name in ("series", "series/valid"))  # 4 x 10 x 3
SMALL = {"patch": 4, "width": 16, "depth": 1, "heads": 2}


@pytest.mark.parametrize("positions", ["learned", "sincos"])
@pytest.mark.parametrize("pool", ["mean", "class"])
def test_a_ragged_row_gives_what_it_gives_alone(pool, positions):
    module = SeriesTransformer(**SMALL, pool=pool, positions=positions)
    variables = checks.drawn(module, X, VALID, train=False)
    padded = checks.quick(lambda x, valid: module.apply(variables, x, valid, train=False))(X.at[1, 5:].set(jnp.nan), VALID)
    alone = checks.quick(lambda x: module.apply(variables, x, train=False))(X[1:2, :5])
    extra = pool == "class"
    assert padded.valid.sum(axis=1).tolist() == [3 + extra, 2 + extra, 1 + extra, 2 + extra]
    np.testing.assert_allclose(padded.tokens[1, : 2 + extra], alone.tokens[0], atol=1e-5)
    np.testing.assert_allclose(padded.pooled[1:2], alone.pooled, atol=1e-5)


def test_causal_tokens_see_no_later_patch():
    module = SeriesTransformer(**SMALL, causal=True, rate=50.0)
    variables = checks.drawn(module, X, VALID, train=False)
    run = checks.quick(lambda x: module.apply(variables, x, train=False))
    before, after = run(X), run(X.at[:, 8:].add(1.0))
    np.testing.assert_array_equal(before.tokens[:, :2], after.tokens[:, :2])
    assert np.abs(before.tokens[:, 2] - after.tokens[:, 2]).max() > 1e-3
    np.testing.assert_allclose(before.time[0], np.array([1.5, 5.5, 9.5]) / 50, rtol=1e-6)


def test_sincos_against_the_formula():
    table = sincos_1d(5, 8)
    for position, i in np.ndindex(5, 4):
        angle = position / 10_000 ** (i / 3)
        np.testing.assert_allclose(table[position, [i, 4 + i]], [np.sin(angle), np.cos(angle)], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "end"}, "pool='end' is unknown"),
        ({"positions": "rotary"}, "positions='rotary' is unknown"),
        ({"causal": True, "pool": "class"}, "needs causal=False"),
        ({"width": 9, "heads": 3}, "an even width from 4 on, not 9"),
    ],
)
def test_wrong_names(changes, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: SeriesTransformer(**{**SMALL, **changes}).init(jax.random.key(0), X, train=False))


def test_a_series_longer_than_the_learned_positions():
    module = SeriesTransformer(**SMALL, positions="learned")
    variables = checks.drawn(module, X, VALID, train=False)
    with pytest.raises(ConfigError, match="4 tokens is longer than the 3 positions learned"):
        jax.eval_shape(lambda: module.apply(variables, jnp.ones((1, 13, 3)), train=False))
