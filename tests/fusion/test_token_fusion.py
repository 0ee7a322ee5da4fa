"""Token fusion against its authors' scores and exchange; who may be replaced, and by whom."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.token_fusion import TokenFusion
from mmjax.nn.positions import sincos_1d
from torch_weights import dense, norm, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_attention.npz")
IDENTITY = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}


def standardised(x):
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)


def only_exchange(params):
    """The parameters, with projections and blocks that pass their tokens on and a last norm without parameters of its own."""
    off = jax.tree_util.tree_map_with_path(lambda path, x: x * 0 if "block" in path[0].key and path[-2].key == "out" else x, params)
    passing = {name: IDENTITY for name in params if name.endswith("_in") or "_to_" in name}
    return off | passing | {"norm": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}


def test_is_the_authors_scores_and_exchange():
    w, given = weights(GOLDEN, "token_fusion"), {}
    for m, theirs in (("audio", "x"), ("text", "y")):
        x = jnp.pad(jnp.asarray(GOLDEN[f"token_fusion/{theirs}"]), ((0, 0), (0, 1), (0, 0)), constant_values=jnp.nan)
        valid = jnp.broadcast_to(jnp.arange(4) < 3, x.shape[:2])
        given[m] = Encoding(x, valid, x[:, 0], valid[:, 0])
    module = TokenFusion(width=4, depth=1, heads=1, threshold=float(GOLDEN["token_fusion/threshold"]))
    params = only_exchange(checks.drawn(module, given, train=False)["params"])
    for i, m in enumerate(given):
        net = f"score_nets.{i}"
        layers = {f"dense_{k}": dense(w, f"{net}.{2 * k + 1}") for k in range(3)}
        two = dense(w, f"{net}.7")
        last = {"kernel": two["kernel"][:, :1] - two["kernel"][:, 1:], "bias": two["bias"][:1] - two["bias"][1:]}
        params[f"{m}_score"] = {"norm": norm(w, f"{net}.0"), **layers, "out": last}
    got = fused(module, {"params": params}, given)
    for name, place in (("x", slice(0, 3)), ("y", slice(4, 7))):
        wanted = GOLDEN[f"token_fusion/out_{name}"] + sincos_1d(3, 4)
        np.testing.assert_allclose(got.tokens[:, place], standardised(wanted), atol=2e-5)
    scores = GOLDEN["token_fusion/score_x"].sum(axis=1) + GOLDEN["token_fusion/score_y"].sum(axis=1)
    np.testing.assert_allclose(got.aux["token_sparsity"], scores, atol=1e-5)


def test_at_both_thresholds_and_without_anyone_to_take_from():
    """With 0 the streams are apart; with 1 every token is the mean of the others' at its place, or its own where none is there."""
    given = encodings(audio=(3, 4), image=(3, 4), text=(3, 4))
    given = {m: e._replace(valid=jnp.ones_like(e.valid), time=None) for m, e in given.items()}
    given["audio"] = given["audio"]._replace(present=jnp.array([True, False, False]))
    given["image"] = given["image"]._replace(present=jnp.array([True, True, False]))
    options = dict(width=4, depth=1, heads=1)
    params = only_exchange(checks.drawn(TokenFusion(**options), given, train=False)["params"])
    even = {name: {**net, "out": {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros(1)}} for name, net in params.items() if "_score" in name}
    apart, replaced = (fused(TokenFusion(**options, threshold=t), {"params": params | even}, given).tokens[:, 6:] for t in (0.0, 1.0))
    x = {m: np.asarray(e.tokens) / 2 for m, e in given.items()}  # scores are a half
    np.testing.assert_allclose(apart, standardised(x["text"] + sincos_1d(3, 4)), atol=1e-5)
    taken = [(x["audio"][0] + x["image"][0]) / 2, x["image"][1], x["text"][2]]
    np.testing.assert_allclose(replaced, standardised(np.stack(taken) + sincos_1d(3, 4)), atol=1e-5)


def test_an_impossible_threshold():
    with pytest.raises(ConfigError, match="threshold=2 should be from 0 to 1"):
        TokenFusion(threshold=2).init(jax.random.key(0), encodings(text=(3, 4)), train=False)
