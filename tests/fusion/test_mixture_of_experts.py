"""Sparse experts against all experts computed densely, and their loss of balance. Not independent of a published program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.fusion.mixture_of_experts import MixtureOfExperts
from mmjax.nn.experts import Experts

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 4)), jnp.float32)
VALID = jnp.arange(6)[None] < jnp.array([6, 4, 0])[:, None]


def applied(module, variables, x, valid):
    return checks.quick(lambda v, x: module.apply(v, x, valid))(variables, x)


def densely(p, x, chosen):
    """All experts on every token, in numpy, and the weights of the chosen ones: [.., E]."""
    h = np.einsum("nd,edh->neh", x, p["in_kernel"]) + p["in_bias"]
    y = np.einsum("neh,ehd->ned", np.asarray(jax.nn.gelu(h)), p["out_kernel"]) + p["out_bias"]
    probability = np.asarray(jax.nn.softmax(x @ p["router"]["kernel"]))
    weight = np.where(probability >= np.sort(probability, axis=1)[:, [-chosen]], probability, 0)
    weight = weight / weight.sum(axis=1, keepdims=True) if chosen > 1 else weight
    return np.einsum("ne,ned->nd", weight, y), probability, weight > 0


@pytest.mark.parametrize("chosen", [1, 2])
def test_is_the_dense_computation_of_the_top_k_and_the_loss_counts_valid_tokens_only(chosen):
    module = Experts(5, chosen, ratio=2.0, capacity=None)
    variables = checks.drawn(module, X, VALID)
    p, found, here = jax.tree.map(np.asarray, variables["params"]), [], np.asarray(VALID)
    for content in (0.0, np.nan, 1e4):
        found.append(applied(module, variables, jnp.where(VALID[:, :, None], X, content), VALID))
    (y, balance), *others = found
    wanted, probability, taken = densely(p, X[here], chosen)
    np.testing.assert_allclose(y[here], wanted, atol=1e-5)
    assert not np.asarray(y)[~here].any()
    np.testing.assert_allclose(balance, 5 * (taken.mean(axis=0) / chosen * probability.mean(axis=0)).sum(), rtol=1e-5)
    for other, loss in others:
        np.testing.assert_array_equal(other, y)
        np.testing.assert_array_equal(loss, balance)
    packed, loss = applied(module, variables, X[here][:, None], jnp.ones((10, 1), bool))
    np.testing.assert_allclose(packed[:, 0], wanted, atol=1e-5)
    np.testing.assert_allclose(loss, balance, rtol=1e-5)


def test_balance_is_1_at_uniform_routing_and_the_number_of_experts_where_one_takes_all():
    """Tokens are one-hot and the router the identity, at a temperature: each expert gets as many as any other, or one all."""
    module, valid = Experts(4, 1, ratio=1.0), jnp.ones((2, 4), bool)
    variables = checks.drawn(module, X[:2, :4], valid)
    even = jnp.broadcast_to(jnp.eye(4), (2, 4, 4))
    for sharpness, x, wanted in ((0.5, even, 1), (50, even, 1), (50, even[:, :1].repeat(4, axis=1), 4)):
        router = {"params": {**variables["params"], "router": {"kernel": sharpness * jnp.eye(4)}}}
        np.testing.assert_allclose(applied(module, router, x, valid)[1], wanted, rtol=1e-5)


def test_over_the_capacity_a_token_gets_nothing_and_first_choices_go_before_second_ones():
    """All tokens prefer expert 0, then 1, which takes 2 of 4: later ones get nothing, and absent ones take no place."""
    module = Experts(4, 2, ratio=1.0, capacity=1.0)
    x = jnp.ones((1, 4, 4)) * jnp.arange(1.0, 5)[None, :, None]
    variables = checks.drawn(module, x, jnp.ones((1, 4), bool))
    router = {"params": {**variables["params"], "router": {"kernel": jnp.tile(jnp.array([[3.0, 2, 1, 0]]) / 40, (4, 1))}}}
    for valid, gone in (([True] * 4, [False, False, True, True]), ([False, True, True, True], [True, False, False, True])):
        y, _ = applied(module, router, x, jnp.array([valid]))
        np.testing.assert_array_equal(np.abs(y[0]).max(axis=1) == 0, gone)


def test_the_loss_is_there_in_training_only_and_blind_to_what_is_absent():
    given = encodings(image=(5, 6), text=(3, 4))
    module = MixtureOfExperts(width=8, depth=2, experts=3, heads=2, mlp_ratio=1.0)
    variables = checks.drawn(module, given, train=False)
    assert set(variables["params"]["block_00"]) != set(variables["params"]["block_01"])
    here = given["image"].present.at[0].set(False)
    step = checks.quick(lambda v, e: module.apply(v, e, train=True).aux["balance"])
    filled = [given["image"]._replace(present=here, tokens=given["image"].tokens.at[0].set(v)) for v in (0.0, jnp.nan, 9.0)]
    found = [step(variables, {**given, "image": e}) for e in filled]
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
    assert (found[0] > 0).all() and np.ptp(found[0]) == 0 and not fused(module, variables, given).aux["balance"].any()


def test_more_chosen_than_there_are():
    with pytest.raises(ConfigError, match="chosen=3 is not between 1 and experts=2"):
        Experts(2, 3).init(jax.random.key(0), X, VALID)
