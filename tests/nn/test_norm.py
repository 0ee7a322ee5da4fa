"""Normalisation of ragged rows: statistics of what is valid, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.nn.norm import Norm

VALID = np.arange(5) < np.array([5, 2, 0, 3])[:, None]
X = np.where(VALID[..., None, None], np.random.default_rng(0).normal(2, 3, (4, 5, 3, 6)), 1e3).astype(np.float32)


@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
def test_statistics_are_those_of_valid_steps(kind):
    module = Norm(kind, "float32")
    variables = module.init(jax.random.key(0), jnp.asarray(X), jnp.asarray(VALID), train=False)
    got, stats = checks.quick(lambda x, valid: module.apply(variables, x, valid, train=True, mutable="batch_stats"))(X, VALID)
    wanted = np.zeros_like(X)
    for row, here in enumerate(VALID):
        seen = X[VALID] if kind == "batch" else X[row][here]
        for channels in [slice(0, 3), slice(3, 6)] if kind == "group" else [slice(c, c + 1) for c in range(6)]:
            part = seen[..., channels]
            if here.any():
                wanted[row, here, :, channels] = (X[row, here, :, channels] - part.mean()) / np.sqrt(part.var() + 1e-5)
    np.testing.assert_allclose(got, wanted, atol=2e-4)
    if kind == "batch":
        np.testing.assert_allclose(stats["batch_stats"]["batch"]["mean"], 0.1 * X[VALID].mean(axis=(0, 1)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
def test_without_affine_it_has_no_parameters(kind):
    shapes = jax.eval_shape(
        lambda: Norm(kind, "float32", affine=False).init(jax.random.key(0), jnp.asarray(X), jnp.asarray(VALID), train=False)
    )
    assert "params" not in shapes
