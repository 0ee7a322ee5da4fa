"""Deep co-attention against its authors' code, padded sequences included; what guides whom in either cascade."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.mcan import MCAN
from torch_weights import dense, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_attention.npz")
PARTS = ("query", "key", "value", "out")


def norm(w, name):
    """Theirs divides by the unbiased deviation, to which it adds its epsilon: worth 4e-5 where features differ little."""
    return {"scale": w[f"{name}.a_2"] * (3 / 4) ** 0.5, "bias": w[f"{name}.b_2"]}


def norms(w, name, *parts):
    return {f"norm_{part}": norm(w, f"{name}.norm{i + 1}") for i, part in enumerate(parts)}


def attention(w, name):
    return {ours: dense(w, f"{name}.linear_{theirs}") for ours, theirs in zip(PARTS, ["q", "k", "v", "merge"], strict=True)}


def unit(w, name, guided):
    mlp = {"in": dense(w, f"{name}.ffn.mlp.fc.linear"), "out": dense(w, f"{name}.ffn.mlp.linear")}
    if not guided:
        return {"own": attention(w, f"{name}.mhatt"), "mlp": mlp} | norms(w, name, "own", "mlp")
    attentions = {"own": attention(w, f"{name}.mhatt1"), "guided": attention(w, f"{name}.mhatt2")}
    return attentions | {"mlp": mlp} | norms(w, name, "own", "guided", "mlp")


def test_is_the_authors_encoder_decoder():
    w = weights(GOLDEN, "mcan")
    params = {"norm": norm(w, "proj_norm")}
    given = {}
    for m, part, flat, counts in (("text", "enc", "lang", (2, 3)), ("image", "dec", "img", (5, 3))):
        params |= {f"{m}_in": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}, f"{m}_out": dense(w, f"attflat_{flat}.linear_merge")}
        params |= {f"{m}_reduce_in": dense(w, f"attflat_{flat}.mlp.fc.linear")}
        params |= {f"{m}_reduce_out": {"kernel": w[f"attflat_{flat}.mlp.linear.weight"].T}}  # its bias is the same for all tokens
        params |= {f"{m}_unit_{i}": unit(w, f"backbone.{part}_list.{i}", part == "dec") for i in range(2)}
        x = jnp.asarray(GOLDEN[f"mcan/{m}"])
        given[m] = Encoding(x, jnp.arange(x.shape[1])[None] < jnp.array(counts)[:, None], x[:, 0], jnp.ones(2, bool))
    got = fused(MCAN(main="text", width=4, depth=2, heads=2, mlp_ratio=2), {"params": params}, given)
    wanted = np.concatenate([GOLDEN["mcan/image_tokens"], GOLDEN["mcan/text_tokens"]], axis=1)
    np.testing.assert_allclose(got.tokens[got.valid], wanted[np.asarray(got.valid)], atol=1e-4)
    np.testing.assert_allclose(got.pooled, GOLDEN["mcan/out"], atol=1e-4)


def test_stacked_units_are_guided_by_those_beside_them():
    """The first unit, but not the last token, of a stack of two is that of a stack of one; the cascades differ where there are two."""
    given = encodings(image=(4, 6), text=(3, 4))
    options = dict(main="text", width=4, heads=1)
    stacked, cascade = (MCAN(**options, depth=2, cascade=name) for name in ("stacking", "encoder_decoder"))
    variables = checks.drawn(stacked, given, train=False)

    def first(module):
        def run(variables):
            _, seen = module.apply(variables, given, train=False, capture_intermediates=lambda found, _: found.name == "image_unit_0")
            return seen["intermediates"]["image_unit_0"]["__call__"][0]

        return np.asarray(checks.quick(run)(variables))[np.asarray(given["image"].valid)]

    alone = first(MCAN(**options, depth=1))
    np.testing.assert_allclose(first(stacked), alone, atol=1e-6)
    assert np.abs(first(cascade) - alone).max() > 1e-2


def test_an_unknown_cascade():
    with pytest.raises(ConfigError, match="cascade='stackin' is unknown. Did you mean 'stacking'"):
        MCAN(cascade="stackin").init(jax.random.key(0), encodings(text=(3, 4)), train=False)
