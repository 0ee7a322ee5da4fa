"""Tokens go where the nearest stands, by time or by place."""

import jax.numpy as jnp
import numpy as np

import checks
from mmjax.ops import places

shares = checks.quick(places.shares)


def valid_of(*counts, length):
    return jnp.arange(length)[None] < jnp.array(counts)[:, None]


def test_equal_lengths_are_aligned_one_to_one_whatever_pads_them():
    got = shares(valid_of(3, 2, 0, length=4), valid_of(3, 2, 3, length=5))
    wanted = np.zeros((3, 4, 5))
    wanted[0, range(3), range(3)] = wanted[1, range(2), range(2)] = 1
    np.testing.assert_array_equal(got, wanted)


def test_many_are_averaged_and_few_are_repeated():
    many, few = valid_of(6, length=6), valid_of(2, length=2)
    np.testing.assert_allclose(shares(few, many)[0], np.repeat(np.eye(2), 3, axis=1) / 3)
    np.testing.assert_array_equal(shares(many, few)[0], np.repeat(np.eye(2), 3, axis=0))


def test_time_comes_before_place():
    """Three frames within a word's time are its own; a word without any takes the nearest."""
    words, frames = jnp.array([[0.0, 5.0, 9.0]]), jnp.array([[4.0, 5.0, 5.5, 99.0]])
    got = shares(valid_of(3, length=3), valid_of(3, length=4), words, frames)
    np.testing.assert_allclose(got[0], [[1, 0, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 1, 0]])
