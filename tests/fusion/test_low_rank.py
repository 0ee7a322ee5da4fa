"""LMF against two published codes, with gradients for every factor; with full rank it is tensor fusion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from products import dense, drawn, encodings, golden, identity, inputs

import checks
from made import fused
from mmjax.fusion.low_rank import LowRank
from mmjax.fusion.tensor import Tensor


def layer(factor):
    """A published factor [rank, 1 + D, width] as a dense layer."""
    bias, kernel = factor[:, 0].ravel(), factor[:, 1:].swapaxes(0, 1)
    return dense(kernel.reshape(len(kernel), -1), bias)


@pytest.mark.parametrize("name", ["low_rank", "low_rank_original"])
def test_published_values_and_gradients(name):
    case, x = golden(name), inputs(0, 1, 2)
    weights = case["weights"].reshape(2, 1, 1)  # of the ranks: the first factor takes them
    factors = [case["factor_0"] * weights, case["factor_1"], case["factor_2"]]
    params = {f"{m}_factor": layer(factor) for m, factor in zip("abc", factors, strict=True)} | {"bias": jnp.asarray(case["bias"])}

    def loss(params):
        pooled = LowRank(7, rank=2).apply({"params": params}, x, train=False).pooled
        return (pooled * case["weight"]).sum(), pooled

    (_, y), grads = checks.quick(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(y, case["y"], atol=1e-5)
    np.testing.assert_allclose(grads["bias"], case["grad_bias"], atol=1e-5)
    published = [case["grad_0"] / weights, case["grad_1"], case["grad_2"]]
    for m, grad in zip("abc", published, strict=True):  # none is hidden from an optimizer
        for part, wanted in layer(grad).items():
            np.testing.assert_allclose(grads[f"{m}_factor"][part], wanted, atol=2e-5)


def test_with_full_rank_it_is_tensor_fusion():
    """Any weight tensor is a sum of outer products: two factors choose an entry each, the third is the rest of the tensor there."""
    weight = drawn(3, 4, 5, 6)  # [1 + 2, 1 + 3, 1 + 4] to 6 features
    chosen = np.stack(np.meshgrid(np.arange(3), np.arange(4), indexing="ij"), axis=-1).reshape(12, 2)
    factors = {
        "a_factor": np.eye(3)[chosen[:, 0], :, None] * np.ones(6),
        "b_factor": np.eye(4)[chosen[:, 1], :, None] * np.ones(6),
        "c_factor": weight[chosen[:, 0], chosen[:, 1]],
    }
    bias = drawn(6)
    x = encodings([("a", 1), ("a", 2), ("b", 2), ("c", 3)], a=drawn(4, 2), b=drawn(4, 3, seed=1), c=drawn(4, 4, seed=2))
    got = fused(LowRank(6, rank=12), {"params": {m: layer(f) for m, f in factors.items()} | {"bias": bias[None]}}, x)

    full = np.zeros((5, 5, 5, 6), np.float32)
    full[:3, :4, :5] = weight
    params = {f"{m}_in": identity(4, n) for m, n in zip("abc", (2, 3, 4), strict=True)} | {"out": dense(full.reshape(-1, 6), bias)}
    wanted = fused(Tensor(6, inner=4), {"params": params}, x)
    np.testing.assert_allclose(got.pooled, wanted.pooled, atol=1e-5)


def test_it_starts_with_a_variance_of_one_and_nothing_silenced():
    x = {m: drawn(64, 32, seed=i) for i, m in enumerate("abc")}
    complete, lacking = encodings(**x), encodings([("b", row) for row in range(64)], **x)
    variables = LowRank(64).init(jax.random.key(0), complete, train=False)
    spreads = [fused(LowRank(64), variables, e).pooled.std() for e in (complete, lacking)]
    np.testing.assert_allclose(spreads, [1, 0.5**0.5], atol=0.25)
