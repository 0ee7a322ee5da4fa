"""Attention, blocks and the attention pool against PyTorch's layers, and their masks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.config import ConfigError
from mmjax.nn.transformer import Attention, AttentionPool, Block, Transformer, quick_gelu
from torch_weights import attention, dense, norm, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "nn.npz")


@pytest.mark.parametrize("case", ["full", "padded", "causal"])
def test_the_block_is_torchs_encoder_layer(case):
    w = weights(GOLDEN, "block")
    params = {
        "attention": attention(w, "self_attn"),
        "mlp": {"in": dense(w, "linear1"), "out": dense(w, "linear2")},
        "norm_1": norm(w, "norm1"),
        "norm_2": norm(w, "norm2"),
    }
    x, weight, valid = (jnp.asarray(GOLDEN[f"block/{name}"]) for name in ("x", "weight", "valid"))
    block = Block(heads=2, mlp_ratio=2, causal=case == "causal")

    def run(x):
        return block.apply({"params": params}, x, valid if case == "padded" else None, train=True)

    y, pull = checks.quick(lambda x: jax.vjp(run, x))(x)
    np.testing.assert_allclose(y, GOLDEN[f"block_{case}/y"], atol=2e-6)
    np.testing.assert_allclose(pull(weight)[0], GOLDEN[f"block_{case}/grad_x"], atol=5e-6)


def test_the_attention_pool_is_torchs_attention_from_a_probe():
    w = weights(GOLDEN, "pool")
    params = {
        "probe": w["probe"],
        "attention": attention(w, "attention"),
        "norm": norm(w, "norm"),
        "mlp": {"in": dense(w, "linear1"), "out": dense(w, "linear2")},
    }
    x, valid = jnp.asarray(GOLDEN["pool/x"]), jnp.asarray(GOLDEN["pool/valid"])
    np.testing.assert_allclose(AttentionPool(heads=2).apply({"params": params}, x, valid, train=False), GOLDEN["pool/y"], atol=2e-6)


def test_a_key_and_value_besides_are_one_more_position():
    """The golden ImageBind holds them to PyTorch's; here that they are seen where nothing else is valid, and not with causal attention."""
    x, valid = jnp.ones((2, 3, 8)), jnp.array([[True, True, False], [False] * 3])
    module = Attention(heads=2, bias_kv=True)
    variables = checks.drawn(module, x, None, valid)
    params, got = variables["params"], module.apply(variables, x, None, valid)
    alone = params["bias_value"][0, 0] @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(got[1], jnp.broadcast_to(alone[None], (3, 8)), atol=1e-6)
    with pytest.raises(ConfigError, match="bias_kv=True stands behind all positions"):
        Attention(heads=2, causal=True, bias_kv=True).apply(variables, x)


def test_attention_over_a_context_of_another_length_and_width():
    x, context = jnp.ones((2, 3, 8)), jnp.arange(2 * 5 * 6, dtype=jnp.float32).reshape(2, 5, 6)
    valid = jnp.array([[True, True, False, False, False], [False] * 5])
    module = Attention(heads=2)
    variables = checks.drawn(module, x, context, valid)
    got = module.apply(variables, x, context, valid)
    assert got.shape == (2, 3, 8)
    assert np.isfinite(got).all()  # also for the row that sees nothing
    np.testing.assert_allclose(got[:1], module.apply(variables, x[:1], context[:1, :2]), rtol=1e-5)


def test_a_block_over_a_context_gets_nothing_from_one_without_valid_positions():
    x, context = jnp.asarray(GOLDEN["block/x"]), jnp.asarray(GOLDEN["block/x"])[:, ::-1, :6]
    valid = jnp.zeros(x.shape[:2], bool).at[1:].set(True)
    block = Block(heads=2)
    variables = checks.drawn(block, x, valid, context, train=False)
    got = block.apply(variables, x, valid, context, train=False)
    assert jnp.abs(got - block.apply(variables, x, valid, -context, train=False))[1:].max() > 0.1
    out = jax.tree.map(jnp.zeros_like, variables["params"]["attention"]["out"])
    variables["params"]["attention"] |= {"out": out}
    np.testing.assert_allclose(got[0], block.apply(variables, x, valid, context, train=False)[0], atol=1e-6)


def test_quick_gelu_is_clips():
    x = np.linspace(-4, 4, 9, dtype=np.float32)
    np.testing.assert_allclose(quick_gelu(jnp.asarray(x)), x / (1 + np.exp(-1.702 * x)), rtol=1e-5)
    assert np.abs(quick_gelu(jnp.asarray(x)) - jax.nn.gelu(x)).max() > 1e-2


def test_rematerialised_blocks_have_the_same_parameters_and_gradients_with_dropout_too():
    x, valid = jnp.asarray(GOLDEN["block/x"]), jnp.asarray(GOLDEN["block/valid"])
    plain, remat = (Transformer(depth=1, heads=2, dropout=0.3, remat=remat) for remat in (False, True))
    variables = checks.drawn(plain, x, valid, train=False)

    def gradient(module):
        def loss(variables):
            return (module.apply(variables, x, valid, train=True, rngs={"dropout": jax.random.key(0)})[0] ** 2).sum()

        return loss, checks.quick(jax.grad(loss))(variables)

    (_, wanted), (loss, got) = gradient(plain), gradient(remat)
    checks.assert_same(got, wanted, "With remat", 1e-5)
    assert "remat" in str(jax.make_jaxpr(jax.grad(loss))(variables)), "it is really there"


def test_a_width_that_the_heads_do_not_divide():
    with pytest.raises(ConfigError, match="width of 8 does not split into 3 heads"):
        Attention(heads=3).init(jax.random.key(0), jnp.ones((1, 2, 8)))
