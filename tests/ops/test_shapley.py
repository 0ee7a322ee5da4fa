"""Shapley values against all orders of joining, worked examples, and the axioms that define them."""

from itertools import permutations

import numpy as np
import pytest

from mmjax.ops.shapley import members, restricted, shapley

GAMES = np.random.default_rng(0).normal(size=(16, 5))  # of four players


def by_orders(values):
    """The mean over all orders of what a player adds when it joins."""
    count = len(values).bit_length() - 1
    orders = list(permutations(range(count)))
    found = np.zeros((count, *values.shape[1:]))
    for order in orders:
        coalition = 0
        for player in order:
            found[player] += values[coalition | 1 << player] - values[coalition]
            coalition |= 1 << player
    return found / len(orders)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_it_is_the_mean_over_all_orders_and_adds_up(count):
    games = GAMES[: 1 << count]
    np.testing.assert_allclose(shapley(games), by_orders(games), atol=1e-12)
    np.testing.assert_allclose(shapley(games).sum(axis=0), games[-1] - games[0], atol=1e-12)


def test_the_glove_game():
    left, right = 0, (1, 2)  # one left glove and two right ones: a pair is worth 1
    pairs = np.array([float(left in s and any(r in s for r in right)) for s in members(3)])
    np.testing.assert_allclose(shapley(pairs), [2 / 3, 1 / 6, 1 / 6])


def test_equals_get_the_same_who_adds_nothing_gets_nothing_and_games_add_up():
    game = np.array([len(set(s) - {2}) ** 2.0 for s in members(4)])  # 2 adds nothing, the others are alike
    found = shapley(game)
    assert found[2] == 0 and np.allclose(found[[0, 1, 3]], 3)
    np.testing.assert_allclose(shapley(GAMES + game[:, None]), shapley(GAMES) + found[:, None], atol=1e-12)


def test_whoever_is_absent_gets_exactly_nothing_and_the_others_play_among_themselves():
    having = np.array([0b1111, 0b0101, 0b0010, 0b0000, 0b1110])
    found = shapley(restricted(GAMES, having))
    for game, have in enumerate(having.tolist()):
        here = [i for i in range(4) if have >> i & 1]
        alone = np.array([GAMES[sum(1 << here[i] for i in s), game] for s in members(len(here))])
        np.testing.assert_allclose(found[here, game], by_orders(alone), atol=1e-12)
        assert all(found[i, game] == 0 for i in set(range(4)) - set(here))


def test_coalitions_that_are_not_all_there():
    with pytest.raises(ValueError, match="3 coalitions: of M players there are 2"):
        shapley(GAMES[:3])
