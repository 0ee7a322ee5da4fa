"""What is absent must not matter, in values and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.ops.masks import masked_mean, unit, zero_where_not


def test_zero_where_not_covers_leading_axes_and_stops_nan():
    x = jnp.stack([jnp.ones((2, 3)), jnp.full((2, 3), jnp.nan)])
    keep = jnp.array([True, False])
    assert (zero_where_not(keep, x) == jnp.array([1.0, 0.0]).reshape(2, 1, 1)).all()
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.square(zero_where_not(keep, x)).sum())(x)[1], 0)
    assert zero_where_not(keep, jnp.array([7, 8], jnp.int32)).dtype == jnp.int32


def test_masked_mean_counts_valid_positions_only():
    x = jnp.array([[[1.0], [3.0], [jnp.nan]], [[jnp.nan]] * 3])
    valid = jnp.array([[True, True, False], [False] * 3])
    np.testing.assert_array_equal(masked_mean(x, valid), [[2.0], [0.0]])
    np.testing.assert_array_equal(jax.grad(lambda x: masked_mean(x, valid).sum())(x)[..., 0], [[0.5, 0.5, 0], [0, 0, 0]])


def test_unit_has_length_one_and_zero_stays_zero():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-3, 0.0], [1e15, 1e15]])
    np.testing.assert_allclose(jnp.linalg.norm(unit(x), axis=1), [1, 0, 1, 1], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: unit(x)[:, 0].sum())(x)).all()
    assert unit(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
