"""Polynomial pooling against its authors' code, and against its weight tensor written out."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from products import drawn, encodings

import checks
from made import fused
from mmjax import config
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.low_rank import LowRank
from mmjax.fusion.polynomial import Polynomial
from mmjax.testing import fusion
from torch_weights import weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "polynomial.npz")
X = {"a": drawn(3, 2), "b": drawn(3, 3, seed=1)}


def variables(module, given):
    return checks.drawn(module, given, train=False)


def published(w, level, windows):
    """Factors of windows, [rank, 1 + D, width] each, as ours; the constant of theirs is a half."""
    found = [{part: w[f"l{level}_win_{part}.{i}"] for part in ("factor", "weight", "bias")} for i in range(windows)]
    kernels = jnp.stack([p["factor"] for p in found]).swapaxes(1, 2)
    return {
        "factor": kernels[:, 1:],
        "factor_bias": kernels[None, :, 0] / 2,
        "weight": jnp.concatenate([p["weight"] for p in found]),
        "bias": jnp.stack([p["bias"] for p in found], axis=1),
    }


@pytest.mark.parametrize(("case", "order"), [("plain", 3), ("normalized", 2)])
def test_is_the_authors_two_levels(case, order):
    """Two windows of one token each; their modalities are in another order. Level by level: they have two widths, we one."""
    w = weights(GOLDEN, case)
    local, last = published(w, 1, 2), published(w, 2, 1)
    windows = np.concatenate([GOLDEN[f"x_{m}"] for m in ("text", "audio", "video")], axis=2)
    options = dict(rank=3, order=order, normalize=case == "normalized")
    inside = []
    for i in range(2):
        p = {name: value[:, i : i + 1] if name.endswith("bias") else value[i : i + 1] for name, value in local.items()}
        inside.append(fused(Polynomial(5, **options), {"params": {"pooling": p}}, encodings(a=windows[:, i])).pooled)
    got = fused(Polynomial(6, **options), {"params": {"pooling": last}}, encodings(a=np.concatenate(inside, axis=1)))
    np.testing.assert_allclose(got.pooled, GOLDEN[f"{case}/y"], rtol=1e-5, atol=1e-5)


def test_is_the_symmetric_weight_tensor_over_the_threefold_outer_product():
    module = Polynomial(4, rank=2)
    v = variables(module, encodings(**X))
    p = v["params"]["pooling"]
    f = np.concatenate([np.ones((3, 1)), X["a"], X["b"]], axis=1)
    factor = np.concatenate([p["factor_bias"][0], p["factor"][0]])  # [1 + D,rank,width]
    tensor = np.einsum("r,irh,jrh,krh->ijkh", p["weight"][0], factor, factor, factor)
    wanted = np.einsum("bi,bj,bk,ijkh->bh", f, f, f, tensor) + np.asarray(p["bias"][0])
    np.testing.assert_allclose(fused(module, v, encodings(**X)).pooled, wanted, rtol=1e-4, atol=1e-5)


def test_is_low_rank_fusion_of_the_concatenation_with_itself():
    module = Polynomial(4, rank=2, order=2)
    v = variables(module, encodings(**X))
    both, p = np.concatenate([X["a"], X["b"]], axis=1), v["params"]["pooling"]
    layers = {}
    for m, weight in (("a", np.ones((2, 1), np.float32)), ("b", np.asarray(p["weight"][0])[:, None])):  # one takes the ranks' weights
        kernel, bias = np.asarray(p["factor"][0]) * weight, np.asarray(p["factor_bias"][0, 0]) * weight
        layers[f"{m}_factor"] = {"kernel": jnp.asarray(kernel.reshape(5, -1)), "bias": jnp.asarray(bias.ravel())}
    wanted = fused(LowRank(4, rank=2), {"params": layers | {"bias": p["bias"][0]}}, encodings(a=both, b=both))
    np.testing.assert_allclose(fused(module, v, encodings(**X)).pooled, wanted.pooled, atol=1e-5)


def test_is_a_polynomial_of_its_order():
    """Along a line the fourth difference of one of order 3 is 0, and the third is the same everywhere."""
    module, t = Polynomial(4, rank=2), np.arange(6, dtype=np.float32)[:, None]
    line = encodings(a=20 * t * X["a"][:1], b=20 * t * X["b"][:1])
    y = np.asarray(fused(module, variables(module, line), line).pooled, np.float64)
    third = np.diff(y, n=3, axis=0)
    np.testing.assert_allclose(np.diff(third, axis=0), 0, atol=1e-4 * np.abs(y).max())
    assert (np.abs(third) > 1e-2 * np.abs(y).max(axis=0)).all()


def test_windows_are_pooled_each_across_modalities_and_then_together():
    """Of five and four tokens, invalid ones left out, two windows: in numpy, of order 2."""
    module = Polynomial(4, rank=2, order=2, windows=2)
    x, y = drawn(2, 5, 3), drawn(2, 4, 2, seed=1)
    x[:, 4], ones = np.nan, np.ones(2, bool)
    valid = np.tile(np.arange(5) < 4, (2, 1))
    given = {
        "a": Encoding(*map(jnp.asarray, (x, valid, x[:, 0], ones))),
        "b": Encoding(*map(jnp.asarray, (y, valid[:, :4], y[:, 0], ones))),
    }
    v = variables(module, given)

    def pooled(f, p):
        power = np.square(np.einsum("bwd,wdre->bwre", f, p["factor"]) + np.asarray(p["factor_bias"]))
        return np.einsum("bwre,wr->bwe", power, p["weight"]) + np.asarray(p["bias"])

    windows = np.stack([np.concatenate([x[:, s : s + 2].mean(axis=1), y[:, s : s + 2].mean(axis=1)], axis=1) for s in (0, 2)], axis=1)
    wanted = pooled(pooled(windows, v["params"]["local"]).reshape(2, 1, -1), v["params"]["pooling"])[:, 0]
    np.testing.assert_allclose(fused(module, v, given).pooled, wanted, rtol=1e-4, atol=1e-5)


def test_the_variants_build_and_an_order_of_0_does_not():
    module = config.build("fusion", {"name": "polynomial", "variant": "hpfn", "width": 4}, "fusion")
    subject = fusion.FusionSubject(module, Polynomial.tiny()[1])
    shapes = jax.eval_shape(lambda: subject.model.init(jax.random.key(0), subject.batch))["params"]["fusion"]
    assert shapes["pooling"]["factor"].shape == (1, 4 * 4, 4, 4)
    with pytest.raises(ConfigError, match="order=0 and windows=1 should be at least 1"):
        Polynomial(order=0).init(jax.random.key(0), encodings(**X), train=False)
