"""BAN against its published code; with even attention it is a product of means."""

import jax
import jax.numpy as jnp
import numpy as np
from products import dense, drawn, encodings, golden, identity

import checks
from made import fused
from mmjax.contract import Encoding
from mmjax.fusion.bilinear_attention import BilinearAttention


def of_tokens(tokens, valid):
    return Encoding(jnp.asarray(tokens), jnp.asarray(valid), jnp.zeros_like(tokens[:, 0]), jnp.asarray(valid.any(axis=1)))


def test_it_is_the_published_network():
    """Its attention has three times the width: here all is as wide, and the remaining weights are 0. It sums over the words."""
    case = golden("bilinear_attention")
    w = {name.removeprefix("weights/"): value for name, value in case.items() if name.startswith("weights/")}
    wide, inputs = 21, {"image": 4, "text": 7}

    def layer(name):
        kernel, bias = w[f"{name}.main.1.weight"].T, w[f"{name}.main.1.bias"]
        return dense(np.pad(kernel, ((0, wide - kernel.shape[0]), (0, wide - kernel.shape[1]))), np.pad(bias, (0, wide - len(bias))))

    glimpses = {
        "p": jnp.asarray(w["v_att.logits.h_mat"].reshape(2, wide)),
        "u": layer("v_att.logits.q_net"),
        "v": layer("v_att.logits.v_net"),
    }
    for g in range(2):
        parts = {"u": f"b_net.{g}.q_net", "v": f"b_net.{g}.v_net", "p": f"q_prj.{g}"}
        glimpses |= {f"{part}_{g}": layer(name) for part, name in parts.items()}
    params = {f"{m}_in": identity(wide, n) for m, n in inputs.items()} | {"text_image": glimpses}

    regions, words = case["regions"], case["words"]
    real = np.abs(regions).sum(axis=2) > 0
    assert not real.all()
    x = {"image": of_tokens(np.where(real[:, :, None], regions, np.nan), real), "text": of_tokens(words, np.ones((3, 3), bool))}
    got = fused(BilinearAttention(wide), {"params": params}, x).pooled
    mean_region = regions.sum(axis=1) / real.sum(axis=1, keepdims=True)  # which is not in the published sum
    wanted = case["y"] / 3
    np.testing.assert_allclose(got[:, :7] - np.pad(mean_region, ((0, 0), (0, 3))), wanted, atol=2e-5)


def test_even_attention_gives_products_of_means():
    """With p = 0 all pairs count the same, and the sum over them comes apart: mean relu(U x) * mean relu(V y)."""
    rng = np.random.default_rng(0)
    valid = {"a": np.arange(5) < np.array([5, 2, 0, 1])[:, None], "b": np.arange(3) < np.array([3, 1, 2, 0])[:, None]}
    x = {m: of_tokens(rng.normal(size=(*v.shape, 6)).astype(np.float32), v) for m, v in valid.items()}
    module = BilinearAttention(6, glimpses=1)
    params = dict(checks.drawn(module, x, train=False)["params"]) | {m: identity(6) for m in ("a_in", "b_in")}
    pair = {**params["b_a"], "p": jnp.zeros((1, 6))}
    got = fused(module, {"params": {**params, "b_a": pair}}, x).pooled

    def mean(m, row, layer=None):
        tokens = x[m].tokens[row][: valid[m][row].sum()]
        if layer:
            tokens = jax.nn.relu(tokens @ pair[layer]["kernel"] + pair[layer]["bias"][None])
        return tokens.mean(axis=0)

    for row in (0, 1):
        joint = mean("b", row, "u_0") * mean("a", row, "v_0")
        wanted = mean("a", row) + mean("b", row) + joint @ pair["p_0"]["kernel"] + pair["p_0"]["bias"]
        np.testing.assert_allclose(got[row], wanted, atol=1e-5)
    np.testing.assert_allclose(got[2], mean("b", 2), atol=1e-6)  # one modality is its mean
    np.testing.assert_allclose(got[3], mean("a", 3), atol=1e-6)


def test_one_modality_alone_is_its_mean():
    x = encodings(a=drawn(3, 4))
    got = fused(BilinearAttention(4), {"params": {"a_in": identity(4)}}, x)
    np.testing.assert_allclose(got.pooled, x["a"].pooled, rtol=1e-6)
