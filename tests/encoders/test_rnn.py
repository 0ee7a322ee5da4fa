"""Recurrent layers against PyTorch's on packed sequences."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.config import ConfigError
from mmjax.encoders.rnn import Rnn

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "series.npz")
X, WEIGHT, VALID = GOLDEN["x"], GOLDEN["weight"], jnp.asarray(np.arange(6) < GOLDEN["lengths"][:, None])


def torchs(cell):
    """The golden weights as ours: two biases become one, but for that of a GRU's state in its new gate."""
    params = {}
    for layer in range(2):
        for name, end in (("forward", ""), ("backward", "_reverse")):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            w = {part: jnp.asarray(GOLDEN[f"{cell}/weights/{part}_l{layer}{end}"]) for part in names}
            own = {"kernel": w["weight_hh"].T}
            if cell == "gru":
                own["new_bias"] = w["bias_hh"][-4:]
                w["bias_hh"] = w["bias_hh"].at[-4:].set(0.0)
            params[f"layer_{layer}_{name}"] = {**own, "input": {"kernel": w["weight_ih"].T, "bias": w["bias_ih"] + w["bias_hh"]}}
    return {"params": params}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_packed_sequences_through_two_layers_in_both_directions(cell):
    module = Rnn(cell, width=4, depth=2, bidirectional=True)

    def run(x):
        e = module.apply(torchs(cell), x, VALID, train=False)
        return (e.tokens * WEIGHT).sum(), e

    (_, e), grad = checks.quick(jax.value_and_grad(run, has_aux=True))(jnp.asarray(X))
    np.testing.assert_allclose(e.tokens, GOLDEN[f"{cell}/y"], atol=1e-6)
    np.testing.assert_allclose(e.pooled, GOLDEN[f"{cell}/last"], atol=1e-6)
    np.testing.assert_allclose(grad, GOLDEN[f"{cell}/grad_x"], atol=1e-5)


def test_a_gap_is_passed_over_in_both_directions():
    """Steps that are not valid may stand anywhere: the rest gives what it gives without them."""
    module = Rnn("lstm", width=4, depth=2, bidirectional=True)
    run = checks.quick(lambda x, valid: module.apply(torchs("lstm"), x, valid, train=False))
    steps = np.array([0, 2, 5])
    gappy = run(X, np.broadcast_to(np.isin(np.arange(6), steps), (3, 6)))
    alone = run(X[:, steps], np.ones((3, 3), bool))
    np.testing.assert_allclose(gappy.tokens[:, steps], alone.tokens, atol=1e-6)
    np.testing.assert_allclose(gappy.pooled, alone.pooled, atol=1e-6)


@pytest.mark.parametrize(("changes", "message"), [({"cell": "rnn"}, "cell='rnn' is unknown"), ({"pool": "max"}, "pool='max' is unknown")])
def test_wrong_names(changes, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: Rnn(**changes).init(jax.random.key(0), jnp.ones((1, 2, 3)), train=False))
