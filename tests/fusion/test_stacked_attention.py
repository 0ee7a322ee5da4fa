"""Stacked attention against its equations, not independent: no code of its authors runs here; and in two limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.fusion.stacked_attention import StackedAttention


@pytest.fixture(scope="module")
def case():
    given = encodings(audio=(5, 6), image=(4, 8), text=(3, 4))
    given["audio"] = given["audio"]._replace(present=jnp.arange(3) != 1)
    module = StackedAttention(main="text", width=6, depth=3, hidden=5)
    return module, given, jax.tree.map(np.asarray, checks.drawn(module, given, train=False)["params"])


def looked(params, given, row):
    """A row's query at first, and the tokens that it sees."""
    query = np.asarray(given["text"].pooled[row]) @ params["text_in"]["kernel"] + params["text_in"]["bias"]
    seen = [m for m in ("audio", "image") if given[m].present[row]]
    rows = [np.asarray(given[m].tokens[row])[np.asarray(given[m].valid[row])] for m in seen]
    tokens = np.concatenate([np.tanh(x @ params[f"{m}_in"]["kernel"] + params[f"{m}_in"]["bias"]) for m, x in zip(seen, rows, strict=True)])
    return query, tokens


def test_follows_the_equations(case):
    module, given, params = case
    got = fused(module, {"params": params}, given).pooled
    for row in range(3):
        u, v = looked(params, given, row)
        for i in range(3):
            w = {name: params[f"{name}_{i}"] for name in ("tokens", "query", "score")}
            hidden = np.tanh(v @ w["tokens"]["kernel"] + u @ w["query"]["kernel"] + w["query"]["bias"])
            p = np.exp(hidden @ w["score"]["kernel"][:, 0])
            u = u + p / p.sum() @ v
        np.testing.assert_allclose(got[row], u, atol=1e-5)


def test_even_looks_add_the_mean_and_sharp_ones_the_same_token(case):
    module, given, params = case
    even = {name: {"kernel": leaf["kernel"] * 0} if name.startswith("score") else leaf for name, leaf in params.items()}
    got = fused(module, {"params": even}, given).pooled
    blind = {name: {k: x * 0 for k, x in leaf.items()} if name.startswith("query") else leaf for name, leaf in params.items()}
    sharp = {name: {"kernel": params["score_0"]["kernel"] * 1e4} if name.startswith("score") else leaf for name, leaf in blind.items()}
    sharp |= {f"tokens_{i}": params["tokens_0"] for i in range(3)}
    picked = fused(module, {"params": sharp}, given).pooled
    for row in range(3):
        u, v = looked(params, given, row)
        np.testing.assert_allclose(got[row], u + 3 * v.mean(axis=0), atol=1e-5)
        best = v[np.argmax(np.tanh(v @ params["tokens_0"]["kernel"]) @ params["score_0"]["kernel"][:, 0])]
        np.testing.assert_allclose(picked[row], u + 3 * best, atol=1e-4)


def test_no_look_at_all():
    with pytest.raises(ConfigError, match="depth=0 should be at least 1"):
        StackedAttention(depth=0).init({}, encodings(text=(3, 4)), train=False)
