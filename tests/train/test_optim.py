"""Optimizers against optax itself, rules, schedules, freezing, averaging, accumulation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.config import ConfigError
from mmjax.contract import Loss
from mmjax.train.optim import Optimizer, known_optimizers, make_schedule, merge, paths
from mmjax.train.step import Weighted, init_state, make_step

PARAMS = {"model": {"a": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}, "b": {"kernel": jnp.full((4, 2), 2.0)}}}


def run(optimizer, params, steps=3):
    """Some steps on the gradient that is the parameters themselves."""
    trained, frozen = optimizer.split(params)
    state = optimizer.init(params)
    for step in range(steps):
        trained, state = optimizer.update(jax.tree.map(lambda p, s=step: p * (1.0 + s), trained), state, trained, jnp.int32(step))
    return merge(trained, frozen)


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adafactor", "muon"])
def test_the_named_optimizer_of_optax_with_its_own_decay_and_schedule(name):
    decay = {} if name in ("sgd", "adafactor") else {"weight_decay": 0.1}
    ours = Optimizer(steps=10, name=name, lr=0.1, schedule="linear", rules=[(".*", {"decay": 0.1 if decay else 0.0})])
    if name == "muon":
        # Ours keeps Muon to matrices called `kernel`, which here are all the matrices there are: optax's own choice.
        decay = {"weight_decay": 0.1, "adam_weight_decay": 0.1}
    theirs = known_optimizers()[name](lambda count: 0.1 * (1 - count / 10), **decay)
    params, state = PARAMS, None
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = theirs.init(params)
        for step in range(3):
            updates, state = theirs.update(jax.tree.map(lambda p, s=step: p * (1.0 + s), params), state, params)
            params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), run(ours, PARAMS), params)


def test_schedules():
    def at(name, step, warmup=10):
        return float(make_schedule(name, 2.0, 110, warmup)(step))

    for name in ("constant", "cosine", "linear", "rsqrt"):
        assert at(name, 0) == pytest.approx(0.2) and at(name, 9) == pytest.approx(2.0) and at(name, 10) == pytest.approx(2.0)
    assert at("cosine", 60) == pytest.approx(1.0) and at("cosine", 110) == pytest.approx(0.0, abs=1e-6)
    assert at("linear", 35) == pytest.approx(1.5) and at("linear", 110) == 0.0
    assert at("rsqrt", 40) == pytest.approx(1.0)
    assert at("constant", 109) == 2.0 and at("cosine", 0, warmup=0) == 2.0
    with pytest.raises(ConfigError, match="'cosine'"):
        make_schedule("cosin", 1.0, 10)
    with pytest.raises(ConfigError, match="warmup=11"):
        make_schedule("cosine", 1.0, 10, 11)


def test_the_first_rule_that_matches_a_whole_path_holds():
    optimizer = Optimizer(steps=1, name="sgd", lr=1.0, schedule="constant", rules=[("model/a/.*", {"lr": 0.5}), (".*", {"decay": 0.5})])
    params = jax.tree.map(jnp.zeros_like, PARAMS)
    moved = run(optimizer, jax.tree.map(jnp.ones_like, params), steps=1)
    assert np.all(moved["model"]["a"]["kernel"] == 0.5) and np.all(moved["model"]["b"]["kernel"] == -0.5)


def test_frozen_parameters_have_neither_gradient_nor_state_and_do_not_move():
    optimizer = Optimizer(steps=1, name="adamw", rules=[("model/a/.*", {"freeze": True}), (".*", {})])
    state = optimizer.init(PARAMS)
    assert {tuple(x.shape) for x in jax.tree.leaves(state)} == {(), (4, 2)}
    moved = run(optimizer, PARAMS)
    assert np.all(moved["model"]["a"]["kernel"] == 1) and not np.all(moved["model"]["b"]["kernel"] == 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": [("model/a/.*", {})]}, "cover no parameter 'model/b/kernel'"),
        ({"rules": [(".*", {"deacy": 1.0})]}, r"rules\[0\].deacy is unknown. Did you mean 'decay'"),
        ({"rules": [("(", {})]}, "no regular expression"),
        ({"rules": [(".*", {"freeze": True})]}, "freeze every parameter"),
        ({"name": "adamv"}, "Did you mean 'adamw'|Did you mean 'adam'"),
        ({"lrr": 1.0}, "optimizer.lrr is unknown. Did you mean 'lr'"),
        ({"b3": 1.0}, "optimizer.b3 is unknown. Did you mean 'b[12]'"),
        ({"accumulate": 0}, "at least 1"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        Optimizer(**{"steps": 1, **change}).split(PARAMS)


def test_options_reach_optax_and_clipping_bounds_the_gradient():
    small = Optimizer(steps=1, name="sgd", lr=1.0, schedule="constant", clip=1e-3)
    change = jax.tree.map(lambda a, b: a - b, run(small, PARAMS, 1), PARAMS)
    assert float(optax.tree.norm(change)) == pytest.approx(1e-3, rel=1e-3)
    assert paths(run(Optimizer(steps=9, b1=0.0), PARAMS)).keys() == paths(PARAMS).keys()
    a, b = (run(Optimizer(steps=9, b1=b1), PARAMS, 2)["model"]["b"]["kernel"] for b1 in (0.0, 0.9))
    assert not np.allclose(a, b)


def test_average_follows_its_formula():
    optimizer = Optimizer(steps=1, ema=0.5)
    assert float(optimizer.average({"a": jnp.float32(0)}, {"a": jnp.float32(1)}, jnp.int32(1_000))["a"]) == 0.5
    assert float(optimizer.average({"a": jnp.float32(0)}, {"a": jnp.float32(1)}, jnp.int32(0))["a"]) == pytest.approx(0.9)


class Linear:
    """y = x W with a dropout-free, statistics-carrying apply, to see that statistics pass from micro-batch to micro-batch."""

    def init(self, key, batch):
        return {"params": {"w": jax.random.normal(key, (3,))}, "count": {"rows": jnp.float32(0)}}

    def apply(self, variables, batch, *, train, rngs=None):
        stats = {"count": {"rows": variables["count"]["rows"] + batch["x"].shape[0]}}
        return {"y": batch["x"] @ variables["params"]["w"]}, stats if train else {"count": variables["count"]}


class Squares:
    """Mean of y^2 over the rows that count: a different number in every micro-batch."""

    batch_wise = False

    def __init__(self, mask):
        self.mask = mask

    def init(self, key, batch, outputs):
        return {"offset": jnp.float32(0.3)}, {"seen": jnp.float32(0)}

    def __call__(self, ctx, outputs, batch):
        weight = batch[self.mask].astype(jnp.float32)
        count = weight.sum()
        mean = (weight * (outputs["y"] - ctx.params["offset"]) ** 2).sum() / jnp.maximum(count, 1)
        return Loss({"squares": mean}, count, {"mean_y": outputs["y"].mean()}, {"seen": ctx.aux["seen"] + count})


def test_accumulated_steps_equal_whole_ones_whatever_counts_in_each_micro_batch():
    rng = np.random.default_rng(0)
    batch = {"x": jnp.asarray(rng.normal(size=(16, 3)), jnp.float32), "a": jnp.arange(16) % 5 == 0, "b": jnp.arange(16) < 9}
    objectives = {"a": Weighted(Squares("a"), lambda step: jnp.float32(1)), "b": Weighted(Squares("b"), lambda step: jnp.float32(3))}
    states, metrics = {}, {}
    for parts in (1, 4):
        optimizer = Optimizer(steps=3, name="sgd", lr=0.1, accumulate=parts)
        state = init_state(jax.random.key(0), batch, Linear(), objectives, optimizer)
        for _ in range(3):
            state, metrics[parts] = jax.jit(make_step(Linear(), objectives, optimizer))(state, batch)
        states[parts] = state
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), states[1].params, states[4].params)
    assert float(metrics[1]["loss"]) == pytest.approx(float(metrics[4]["loss"]), rel=1e-5)
    assert float(states[4].aux["b"]["seen"]) == float(states[1].aux["b"]["seen"]) == 27
    assert float(states[4].stats["count"]["rows"]) == 48


def test_a_loss_over_the_whole_batch_cannot_be_accumulated():
    loss = Squares("a")
    loss.batch_wise = True
    with pytest.raises(ConfigError, match="another loss"):
        make_step(Linear(), {"a": Weighted(loss, lambda step: jnp.float32(1))}, Optimizer(steps=1, accumulate=2))
