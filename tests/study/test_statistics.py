"""Intervals, tests and ranks against scipy's and against published numbers."""

import numpy as np
import pytest
from scipy import stats

from mmjax.study.statistics import critical_difference, holm, interval, mean_ranks, sign_flip, smallest_p

RNG = np.random.default_rng(0)


def test_the_interval_is_students_and_covers_the_truth_as_often_as_it_says():
    scores = RNG.normal(0.7, 0.1, 10)
    low, high = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    found = interval(scores)
    np.testing.assert_allclose([found.mean - found.half, found.mean + found.half], [low, high])
    many = [interval(RNG.normal(0.7, 0.1, 10)) for _ in range(2_000)]
    assert 0.935 < np.mean([abs(x.mean - 0.7) <= x.half for x in many]) < 0.965
    assert np.isnan(interval(np.array([0.5])).half)


@pytest.mark.parametrize("n", [3, 10])
def test_the_exact_test_is_scipys(n):
    a, b = RNG.normal(0.1, 1, n), RNG.normal(0, 1, n)
    theirs = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(a - b) == pytest.approx(theirs.pvalue)


def test_the_sampled_test_agrees_with_the_t_test_and_never_gives_0():
    d = RNG.normal(0.25, 1, 80)
    assert sign_flip(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.01)
    assert sign_flip(np.ones(60)) == smallest_p(60) > 0
    assert sign_flip(d) == sign_flip(d)


def test_no_difference_is_found_where_there_is_none():
    assert sign_flip(np.zeros(10)) == 1
    p = [sign_flip(RNG.normal(0, 1, 10)) for _ in range(500)]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.08  # it holds its level
    assert sign_flip(np.full(10, 0.1)) == smallest_p(10) == 2 / 1024  # equal differences are equal under rounding, too


def test_holm():
    """The example of Wright, 1992, 'Adjusted p-values for simultaneous inference', by hand."""
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_ranks_and_their_critical_difference_are_demsars():
    assert mean_ranks(np.array([[0.9, 0.8, 0.8], [0.5, 0.7, 0.6]])).tolist() == [2.0, 1.75, 2.25]
    assert critical_difference(4, 14) == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)  # his table 5 and sec. 3.2.4
