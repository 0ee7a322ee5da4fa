"""Adapters begin as what is there, are trained alone, and merge into kernels that do the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.config import ConfigError
from mmjax.encoders.text_transformer import TextTransformer
from mmjax.encoders.vit import ViT
from mmjax.nn.adapters import Adapters
from mmjax.train.build import parts_of
from mmjax.train.loop import train
from mmjax.train.pretrained import load_parts
from toy import toy_config

X = jnp.asarray(ViT.tiny()[1]["image"])
MODULE = ViT(patch=4, width=16, depth=2, heads=2)
RULES = {
    "lora": (r".*/(query|value)", {"name": "lora", "rank": 3, "alpha": 6}),
    "dora": (r".*/(query|out)", {"name": "dora", "rank": 2}),
    "adapter": (r".*/(attention|mlp)", {"name": "adapter", "width": 5}),
    "prefix": (r".*/attention", {"name": "prefix", "length": 3}),
}


def drawn(tree, key):
    leaves, shape = jax.tree.flatten(tree)
    return jax.tree.unflatten(
        shape, [0.3 * jax.random.normal(k, x.shape) for k, x in zip(jax.random.split(key, len(leaves)), leaves, strict=True)]
    )


@pytest.fixture(scope="module")
def params():
    return checks.drawn(MODULE, X, train=False)["params"]


def run(adapters, own, params):
    with adapters.applied(own):
        return MODULE.apply({"params": params}, X, train=False).tokens


def tokens(adapters, own, params):
    return checks.quick(lambda own, params: run(adapters, own, params))(own, params)


@pytest.mark.parametrize("kind", RULES)
def test_an_adapter_begins_as_the_model_and_can_leave_it(kind, params):
    adapters = Adapters([RULES[kind]])
    own = adapters.init(jax.random.key(0), MODULE, X, train=False)
    before = checks.quick(lambda params: MODULE.apply({"params": params}, X, train=False).tokens)(params)
    same = np.abs(np.asarray(tokens(adapters, own, params) - before)).max()
    assert same < 2e-5 if kind != "prefix" else same > 0
    assert set(own["transformer"]) == {"block_00", "block_01"}
    grads = checks.quick(jax.grad(lambda own: (run(adapters, own, params) ** 3).sum()))(drawn(own, jax.random.key(1)))
    assert all((np.asarray(g) != 0).any() for g in jax.tree.leaves(grads))
    assert np.abs(np.asarray(tokens(adapters, drawn(own, jax.random.key(1)), params) - before)).max() > 1e-3


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merged_kernels_do_the_same(kind, params):
    adapters = Adapters([RULES[kind]])
    own = drawn(adapters.init(jax.random.key(0), MODULE, X, train=False), jax.random.key(2))
    merged = adapters.merged({**params, "adapters": own})
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    after = checks.quick(lambda params: MODULE.apply({"params": params}, X, train=False).tokens)(merged)
    np.testing.assert_allclose(after, tokens(adapters, own, params), atol=5e-5)


def test_the_equations_on_one_layer():
    """LoRA's y = x (W + alpha / r A B) + b; DoRA's columns have the lengths that it learns, and no gradient goes to what they had."""
    rng = np.random.default_rng(0)
    w, a, b, length = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 3), (4, 2), (2, 3), (3,)))
    lora, dora = (Adapters([(".*", {"name": n, "rank": 2, "alpha": 6})]).rules[0][1] for n in ("lora", "dora"))
    np.testing.assert_allclose(lora.merged({"a": a, "b": b}, w), w + 3 * a @ b, rtol=1e-5)
    moved = w + 3 * a @ b
    wanted = np.asarray(moved) / np.linalg.norm(moved, axis=0) * (np.linalg.norm(w, axis=0) + np.asarray(length))
    np.testing.assert_allclose(dora.merged({"a": a, "b": b, "length": length}, w), wanted, rtol=1e-5)


def test_a_prefix_is_not_for_causal_attention():
    module, batch = TextTransformer.tiny()
    adapters, text = Adapters([RULES["prefix"]]), jnp.asarray(batch["text"])
    own = adapters.init(jax.random.key(0), module, text, train=False)
    with pytest.raises(ConfigError, match="not for causal"), adapters.applied(own):
        jax.eval_shape(lambda: module.init(jax.random.key(0), text, train=False))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ((".*/attention/qery", {"name": "lora"}), "matches no Dense of the model. Did you mean"),
        ((".*/norm_1", {"name": "lora"}), "matches no Dense"),
        ((".*", {"name": "lorra"}), "Did you mean 'lora'"),
        ((".*", {"name": "lora", "rnk": 2}), "Did you mean 'rank'"),
        (("(", {"name": "lora"}), "no regular expression"),
        ((".*",), "should be"),
    ],
)
def test_wrong_rules(rule, said):
    with pytest.raises(ConfigError, match=said):
        Adapters([rule]).init(jax.random.key(0), MODULE, X, train=False)


def test_adapters_are_not_for_scanned_blocks():
    with pytest.raises(ConfigError, match=r"adapt: transformer/block_00/attention/.* stands in blocks that run as one"):
        Adapters([RULES["lora"]]).init(jax.random.key(0), MODULE.clone(scan=True), X, train=False)
    Adapters([("embedding", {"name": "lora"})]).init(jax.random.key(0), MODULE.clone(scan=True), X, train=False)


def test_a_run_trains_adapters_alone_and_another_begins_with_them_merged(tmp_path, capsys):
    rules = [("model/adapters/.*", {}), ("model/image/.*", {"freeze": True}), (".*", {})]
    tuned = {"steps": 2, "evals": {}, "optimizer__rules": rules, "adapt": [("image/.*/(query|value)", {"name": "lora", "rank": 2})]}
    config = toy_config(**tuned)
    train(config, tmp_path / "lora")
    assert "of them trained" in capsys.readouterr().err
    parts = parts_of(toy_config(steps=2, evals={}, init_from={"image": str(tmp_path / "lora")}))
    with jax.set_mesh(parts.mesh):
        found = load_parts(parts, parts.state_shapes())["params"]["image"]
    began = parts_of(config)
    with jax.set_mesh(began.mesh):
        state = began.init(began.state_shapes(), next(began.data.train_batches(began.mesh)))
    image, adapters = state.params["model"]["image"], state.params["model"]["adapters"]["image"]
    moments = [jax.tree_util.keystr(k) for k, _ in jax.tree_util.tree_leaves_with_path(state.opt)]
    assert any("adapters" in k for k in moments) and not any("'image'" in k and "adapters" not in k for k in moments)
    for block in adapters["transformer"].values():
        assert set(block["attention"]) == {"query", "value"}
    same = jax.tree.map(lambda a, b: bool(np.allclose(a, b, atol=1e-7)), image, found)
    moved = {k: same["transformer"]["block_00"]["attention"][k]["kernel"] for k in ("query", "key", "value", "out")}
    assert moved == {"query": False, "key": True, "value": False, "out": True} and all(jax.tree.leaves(same["embedding"]))
