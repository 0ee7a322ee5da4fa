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


def loss_of(module, x, valid):
    def loss(variables):
        return (module.apply(variables, x, valid, train=True, rngs={"dropout": jax.random.key(0)})[0] ** 2).sum()

    return loss


@pytest.mark.parametrize("remat", [True, "full", "dots", "all_dots"])
def test_rematerialised_blocks_have_the_same_parameters_and_gradients_with_dropout_too(remat):
    x, valid = jnp.asarray(GOLDEN["block/x"]), jnp.asarray(GOLDEN["block/valid"])
    plain, again = (Transformer(depth=1, heads=2, dropout=0.3, remat=remat) for remat in (False, remat))
    variables = checks.drawn(plain, x, valid, train=False)
    wanted, got = (checks.quick(jax.grad(loss_of(module, x, valid)))(variables) for module in (plain, again))
    checks.assert_same(got, wanted, "With remat", 1e-5)


def test_a_policy_keeps_what_it_says():
    """By name: nothing; what dense layers gave; what attention's products gave, too. Every product that is not kept is made again."""
    x, valid = jnp.asarray(GOLDEN["block/x"]), jnp.asarray(GOLDEN["block/valid"])
    variables = checks.drawn(Transformer(depth=2, heads=2), x, valid, train=False)

    def products(remat):
        program = jax.make_jaxpr(jax.grad(loss_of(Transformer(depth=2, heads=2, remat=remat), x, valid)))(variables)
        return str(program).count("dot_general[")

    full, dots, all_dots, none = map(products, ("full", "dots", "all_dots", False))
    assert full > dots > all_dots == none > 0
    with pytest.raises(ConfigError, match=r"remat='dot' is unknown\. Did you mean 'dots'"):
        products("dot")


@pytest.mark.parametrize("changes", [{}, {"remat": "dots", "causal": True}, {"post_norm": True}], ids=str)
def test_scanned_blocks_have_the_same_parameters_outputs_and_gradients(changes):
    x, valid = jnp.asarray(GOLDEN["block/x"]), jnp.asarray(GOLDEN["block/valid"])
    loop, scan = (Transformer(depth=3, heads=2, scan=scan, **changes) for scan in (False, True))
    variables = checks.drawn(scan, x, valid, train=False)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, checks.drawn(loop, x, valid, train=False))
    outputs = [checks.quick(lambda v, m=module: m.apply(v, x, valid, train=False))(variables) for module in (loop, scan)]
    checks.assert_same(outputs[1], outputs[0], "Scanned, tokens and stages", 1e-5)
    grads = [checks.quick(jax.grad(loss_of(module, x, valid)))(variables) for module in (loop, scan)]
    checks.assert_same(grads[1], grads[0], "Scanned, gradients", 1e-5)
    programs = [str(jax.make_jaxpr(loss_of(module, x, valid))(variables)) for module in (loop, scan)]
    assert programs[1].count("dot_general[") == programs[0].count("dot_general[") / 3, "one block, run three times"


def test_dropout_in_scanned_blocks_differs_from_block_to_block_and_is_for_training():
    """Blocks of which only the MLP's last bias is not zero add that bias, dropped: what each adds shows its mask."""
    x = jnp.zeros((1, 2, 64))
    module = Transformer(depth=2, heads=2, dropout=0.5, scan=True, final_norm=False)
    params = jax.tree.map(jnp.zeros_like, module.init(jax.random.key(0), x, train=False)["params"])
    for block in params.values():
        block["mlp"]["out"]["bias"] = jnp.ones(64)
    runs = {
        train: checks.quick(lambda key, t=train: module.apply({"params": params}, x, train=t, rngs={"dropout": key})[1])
        for train in (True, False)
    }
    first, second = runs[True](jax.random.key(0))
    assert set(np.unique(first)) == {0.0, 2.0} and (np.asarray(first) != np.asarray(second - first)).any()
    assert (np.asarray(runs[True](jax.random.key(1))[0]) != np.asarray(first)).any()
    assert (np.asarray(runs[False](jax.random.key(0))[1]) == 2).all()


def test_a_width_that_the_heads_do_not_divide():
    with pytest.raises(ConfigError, match="width of 8 does not split into 3 heads"):
        Attention(heads=3).init(jax.random.key(0), jnp.ones((1, 2, 8)))
