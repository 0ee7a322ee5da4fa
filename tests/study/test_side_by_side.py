"""Runs side by side are the runs that `train` makes, one compiled step for all."""

import jax
import numpy as np
import pytest

from mmjax.config import changed
from mmjax.study.side_by_side import Run, SideBySide, reads
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.logging import TrainingError
from mmjax.train.loop import train
from toy import toy_config

QUIET = {
    "steps": 3,
    "checkpoint__every": 3,
    "data__batch_pp": {"image": "normalise"},
    "data__modality_dropout": 0.1,
    "optimizer__name": "sgd",  # Adam would blow up the rounding of gradients that are zero but for it, such as a key bias's
}


@pytest.fixture(scope="module")
def side():
    return SideBySide(toy_config(**QUIET))


def test_a_run_is_that_of_train_to_the_bit(side, tmp_path):
    results = train(toy_config(**QUIET, seed=3), tmp_path / "run")
    first, second = side.train([Run(2), Run(3)])
    checkpoint = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    stored = checkpoint.restore(3, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), second))
    for a, b in zip(jax.tree.leaves(second.params), jax.tree.leaves(stored.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True))
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in second.params.items()}
    assert side.cost["parameters"] == sizes["model"] and side.cost["trained"] == sum(sizes.values())
    state = sum(x.nbytes for x in jax.tree.leaves((second.params, second.opt)))
    assert side.cost["step_flops"] > 6 * 16 * sizes["model"] / 10 and side.cost["peak_bytes"] > state
    numbers = side.measure(second, {"retrieval": "test"}, details=True)
    assert numbers and all(results[name] == value for name, value in numbers.items())


def test_data_of_another_run_change_nothing():
    """Pictures are encoded once for both; what differs in the second is no part of what it reads."""
    frozen = {
        "data__encoded": ["image"],
        "data__pp__image": "decode",
        "data__batch_pp": {"image": "normalise"},
        "optimizer__rules": [("model/image/.*", {"freeze": True}), (".*", {})],
        "evals": {"retrieval": {"name": "retrieval", "baseline": None}},
        "steps": 2,
    }
    first, second = toy_config(**frozen), toy_config(**frozen, optimizer__lr=0.02)
    assert reads(first) == reads(second) != reads(toy_config(**frozen, data__batch_size=8))
    assert reads(first) != reads(changed(first, {"model.encoders.image.width": 8}))
    before = SideBySide(first)
    before.train([Run(0), Run(1)])
    found = []
    for data in (None, before.parts.data):
        side = SideBySide(second, data=data)
        states = side.train([Run(0), Run(0, lr=0.5), Run(1)])  # two of one seed share its batches
        found.append([s.params for s in states] + [side.measure(states[0], {"retrieval": "test"}, details=False)])
    assert side.parts.data is before.parts.data
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_vmapped_runs_are_those_of_one_after_another(side):
    runs = [Run(0), Run(1, lr=0.5)]
    one, at_once = (jax.tree.leaves([s.params for s in x.train(runs)]) for x in (side, SideBySide(toy_config(**QUIET), vmap=True)))
    for a, b in zip(one, at_once, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_loss_that_is_not_finite_is_an_error(side):
    with pytest.raises(TrainingError, match="seed 1 at 1e.30 × the learning rate"):
        side.train([Run(0), Run(1, lr=1e30)])
