"""data.balance: how often training reads examples with a rare stream."""

import jax
import numpy as np
import pytest

from mmjax.config import ConfigError
from mmjax.data.loader import Data
from mmjax.data.order import Order, balanced
from mmjax.train.sharding import make_mesh
from toy import Toy

RARE = np.arange(1_000) % 50 == 7
OFTEN = np.arange(1_000) % 2 == 0


class Sparse(Toy):
    """A text has every eighth example only."""

    def __getitem__(self, index):
        row = super().__getitem__(index)
        return row if index % 8 == 0 else {**row, "text": None}


def drawn(strata, has, shares, rows=20_000):
    arranged, weighted = balanced(strata, has, shares)
    assert sorted(arranged) == list(range(strata[-1][1]))
    return arranged[Order(weighted, 0)(np.arange(rows))[0]]


def test_a_rare_stream_has_its_share_and_everything_is_read_evenly():
    rows = drawn([(0, 1_000, 1.0)], {"a": RARE}, {"a": 0.25})
    assert RARE[rows].mean() == pytest.approx(0.25, abs=1e-3)
    counts = np.bincount(rows, minlength=1_000)
    assert np.ptp(counts[RARE]) <= 1 and np.ptp(counts[~RARE]) <= 1


def test_several_streams_and_parts_with_weights():
    strata = [(0, 400, 3.0), (400, 1_000, 1.0)]
    rows = drawn(strata, {"a": RARE, "b": OFTEN}, {"a": 0.2, "b": 0.6})
    assert RARE[rows].mean() > 0.2 - 1e-3 and OFTEN[rows].mean() > 0.6 - 1e-3
    counts = np.bincount(rows, minlength=1_000)
    alike = [counts[(np.arange(1_000) < 400) & ~RARE & OFTEN], counts[(np.arange(1_000) >= 400) & ~RARE & OFTEN]]
    assert alike[0].mean() / alike[1].mean() == pytest.approx(3 / 400 * 600, rel=0.05)  # as the weights have it


def test_a_share_that_is_met_changes_no_share():
    assert OFTEN[drawn([(0, 1_000, 1.0)], {"b": OFTEN}, {"b": 0.1})].mean() == pytest.approx(0.5, abs=1e-3)


def test_shares_that_nothing_gives():
    with pytest.raises(ValueError, match="no example has 'a'"):
        balanced([(0, 9, 1.0)], {"a": np.zeros(9, bool)}, {"a": 0.2})
    with pytest.raises(ValueError, match="no sampling"):
        balanced([(0, 1_000, 1.0)], {"a": OFTEN, "b": ~OFTEN}, {"a": 0.7, "b": 0.7})


def data(**balance):
    pp = {"image": "decode|resize(4)", "text": 'choose("en")|tokens(8)'}
    return Data(dict(name="test_balance:Sparse"), pp, 16, balance=balance)


def test_batches_have_the_share_and_resume():
    mesh = make_mesh()
    batches = data(text=0.5).train_batches(mesh)
    taken = [jax.device_get(next(batches)) for _ in range(4)]
    assert sum(int(batch["text/present"].sum()) for batch in taken) == pytest.approx(32, abs=1)
    resumed = jax.device_get(next(data(text=0.5).train_batches(mesh, 3)))
    for name, value in taken[3].items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        ({"texts": 0.5}, "data.balance.texts: data.pp reads no such stream. Did you mean 'text'"),
        ({"text": 1.5}, "data.balance.text=1.5 should"),
    ],
)
def test_mistakes_are_named(balance, message):
    with pytest.raises(ConfigError, match=message):
        data(**balance)
