"""What is absent must not matter, in values and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.ops.masks import (
    masked_last,
    masked_max,
    masked_mean,
    masked_parts,
    token_times,
    unit,
    valid_strides,
    valid_windows,
    zero_where_not,
)


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


def test_masked_max_and_last_look_at_valid_positions_only():
    x = jnp.array([[[-3.0], [-1.0], [jnp.nan]], [[jnp.nan]] * 3])
    valid = jnp.array([[True, True, False], [False] * 3])
    np.testing.assert_array_equal(masked_max(x, valid), [[-1.0], [0.0]])
    np.testing.assert_array_equal(jax.grad(lambda x: masked_max(x, valid).sum())(x)[..., 0], [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(masked_last(x, valid)[0], [-1.0])


def test_validity_behind_strides_and_windows_is_that_of_each_row_alone():
    """Of a row of L positions ceil(L / 3) strides of 3 are left, and (L - 5) // 3 + 1 windows of 5, at least one."""
    lengths = np.arange(12)
    valid = jnp.asarray(np.arange(11) < lengths[:, None])
    strides, windows = valid_strides(valid, 3), valid_windows(valid, 5, 3)
    assert strides.shape == (12, 4) and windows.shape == (12, 3)
    np.testing.assert_array_equal(strides, np.arange(4) < np.ceil(lengths / 3)[:, None])
    np.testing.assert_array_equal(windows, np.arange(3) < np.where(lengths, np.maximum((lengths - 5) // 3 + 1, 1), 0)[:, None])
    # a gap: a window is whole or not
    np.testing.assert_array_equal(valid_windows(jnp.arange(11)[None] != 4, 5, 3), [[False, False, True]])


def test_times_are_the_middles_of_windows():
    valid = jnp.ones((2, 3), bool)
    assert token_times(valid, 4, None) is None
    np.testing.assert_allclose(token_times(valid, 4, 100.0), [[0.015, 0.055, 0.095]] * 2, rtol=1e-6)
    np.testing.assert_allclose(token_times(valid, 320, 16_000.0, 400)[0, 1], (320 + 199.5) / 16_000, rtol=1e-6)


def test_unit_has_length_one_and_zero_stays_zero():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-3, 0.0], [1e15, 1e15]])
    np.testing.assert_allclose(jnp.linalg.norm(unit(x), axis=1), [1, 0, 1, 1], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: unit(x)[:, 0].sum())(x)).all()
    assert unit(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_masked_parts_are_means_of_equal_stretches_of_what_is_valid():
    x = jnp.arange(14.0).reshape(2, 7, 1)
    valid = jnp.array([[True, False, True, True, True, True, True], [False, True, False, False, False, False, False]])
    x = jnp.where(valid[:, :, None], x, jnp.nan)
    np.testing.assert_allclose(masked_parts(x, valid, 3), [[1, 3.5, 5.5], [8, 0, 0]])
    np.testing.assert_allclose(masked_parts(x, valid, 1), masked_mean(x, valid))
    assert np.isfinite(jax.grad(lambda x: masked_parts(x, valid, 3).sum())(x)).all()
    assert masked_parts(jnp.full((1, 4, 2), jnp.nan), jnp.zeros((1, 4), bool), 2).tolist() == [[0.0] * 4]
