"""Polynomial pooling against its weight tensor written out, and against the golden-tested `low_rank`."""

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

X = {"a": drawn(3, 2), "b": drawn(3, 3, seed=1)}


def variables(module, given):
    return checks.drawn(module, given, train=False)


def factors(p, rank=2):
    """w_p^r, the 1's first: [P][1 + D, rank, width]."""
    return [np.concatenate([f["bias"][None], f["kernel"]]).reshape(-1, rank, f["bias"].size // rank) for f in p.values()]


def test_is_the_weight_tensor_over_the_threefold_outer_product():
    module = Polynomial(4, rank=2)
    v = variables(module, encodings(**X))
    f = np.concatenate([np.ones((3, 1)), X["a"], X["b"]], axis=1)
    weight = np.einsum("irh,jrh,krh->ijkh", *factors(v["params"]["pooling"]))
    wanted = np.einsum("bi,bj,bk,ijkh->bh", f, f, f, weight)
    np.testing.assert_allclose(fused(module, v, encodings(**X)).pooled, wanted, atol=1e-5)


def test_is_low_rank_fusion_of_the_concatenation_with_itself():
    module = Polynomial(4, rank=2, order=2)
    v = variables(module, encodings(**X))
    both = np.concatenate([X["a"], X["b"]], axis=1)
    p = {f"{m}_factor": v["params"]["pooling"][f"factor_{i}"] for i, m in enumerate("ab")} | {"bias": jnp.zeros((1, 4))}
    wanted = fused(LowRank(4, rank=2), {"params": p}, encodings(a=both, b=both))
    np.testing.assert_allclose(fused(module, v, encodings(**X)).pooled, wanted.pooled, atol=1e-5)


def test_is_a_polynomial_of_its_order():
    """Along a line the fourth difference of one of order 3 is 0, and the third is the same everywhere."""
    module, t = Polynomial(4, rank=2), np.arange(6, dtype=np.float32)[:, None]
    line = encodings(a=t * X["a"][:1], b=t * X["b"][:1])
    y = np.asarray(fused(module, variables(module, line), line).pooled, np.float64)
    third = np.diff(y, n=3, axis=0)
    np.testing.assert_allclose(np.diff(third, axis=0), 0, atol=1e-4 * np.abs(y).max())
    assert (np.abs(third) > 1e-2).all()


def test_windows_are_pooled_each_across_modalities_and_then_together():
    """Of five and four tokens, invalid ones left out, two windows: in numpy, as two weight tensors of order 2."""
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
        f = np.concatenate([np.ones((*f.shape[:-1], 1)), f], axis=-1)
        return np.einsum("...i,...j,irh,jrh->...h", f, f, *factors(p))

    windows = np.stack([np.concatenate([x[:, s : s + 2].mean(axis=1), y[:, s : s + 2].mean(axis=1)], axis=1) for s in (0, 2)], axis=1)
    wanted = pooled(pooled(windows, v["params"]["local"]).reshape(2, -1), v["params"]["pooling"])
    np.testing.assert_allclose(fused(module, v, given).pooled, wanted, rtol=1e-4, atol=1e-5)


def test_the_variants_build_and_an_order_of_0_does_not():
    module = config.build("fusion", {"name": "polynomial", "variant": "hpfn", "width": 4}, "fusion")
    subject = fusion.FusionSubject(module, Polynomial.tiny()[1])
    shapes = jax.eval_shape(lambda: subject.model.init(jax.random.key(0), subject.batch))["params"]["fusion"]
    assert shapes["pooling"]["factor_2"]["kernel"].shape == (4 * 4, 4 * 4)
    with pytest.raises(ConfigError, match="order=0 and windows=1 should be at least 1"):
        Polynomial(order=0).init(jax.random.key(0), encodings(**X), train=False)
