"""The order of training: shares of the strata, permutations, and what it may depend on."""

import numpy as np
import pytest

from mmjax.data.order import Order, interleaved

STRATA = [(0, 1500, 0.75), (1500, 1540, 0.15), (1540, 1547, 0.1)]  # of the first an epoch is computed, of the others tabled


def drawn(strata, rows, seed=0):
    return Order(strata, seed)(np.asarray(rows))


@pytest.mark.parametrize("weights", [(0.7, 0.3), (5, 1, 1), (1, 1000), (0.2, 0.3, 0.1, 0.4), (82_783, 1_916)])
def test_every_window_has_its_shares(weights):
    strata = [(100 * i, 100 * i + 100, weight) for i, weight in enumerate(weights)]
    which = drawn(strata, np.arange(8_000))[0] // 100
    shares = np.array(weights) / np.sum(weights)
    counts = np.cumsum(which[:, None] == np.arange(len(weights)), axis=0)
    expected = np.arange(1, 8_001)[:, None] * shares
    assert abs(counts - expected).max() < len(weights)
    for window in (16, 100, 1_024):
        off = (counts[window:] - counts[:-window]) - window * shares
        assert abs(off).max() < 2 * len(weights)


def test_each_stratum_is_permuted_and_repeated_on_its_own():
    examples, epochs = drawn(STRATA, np.arange(4_000))
    for start, stop, _ in STRATA:
        mine = (examples >= start) & (examples < stop)
        own, size = examples[mine], stop - start
        np.testing.assert_array_equal(epochs[mine], np.arange(mine.sum()) // size)
        whole = own[: len(own) // size * size].reshape(-1, size)
        assert len(whole) >= 2 and all(sorted(epoch) == list(range(start, stop)) for epoch in whole)
        assert not np.array_equal(whole[0], whole[1]) and not np.array_equal(whole[0], np.arange(start, stop))


def test_strata_of_one_size_are_in_different_orders():
    examples, _ = drawn([(0, 50, 1), (50, 100, 1)], np.arange(100))
    assert not np.array_equal(examples[examples < 50], examples[examples >= 50] - 50)


def test_a_row_depends_on_its_number_and_the_seed_alone():
    whole = np.stack(drawn(STRATA, np.arange(3_000)), axis=1)
    picked = np.random.default_rng(0).integers(0, 3_000, 200)
    np.testing.assert_array_equal(np.stack(drawn(STRATA, picked), axis=1), whole[picked])
    assert not np.array_equal(np.stack(drawn(STRATA, np.arange(3_000), seed=1), axis=1), whole)
    scaled = [(start, stop, 40 * weight) for start, stop, weight in STRATA]
    np.testing.assert_array_equal(np.stack(drawn(scaled, np.arange(3_000)), axis=1), whole)


def test_far_rows_are_exact():
    far = 2**41
    shares = np.array([2**20 - 3, 1, 2])
    which, nth = interleaved(far + np.arange(2**20), shares)
    np.testing.assert_array_equal(np.bincount(which), shares)
    for i in range(3):
        mine = nth[which == i]
        np.testing.assert_array_equal(mine, mine[0] + np.arange(len(mine)))
        assert abs(mine[0] - far * int(shares[i]) // 2**20) <= 3
