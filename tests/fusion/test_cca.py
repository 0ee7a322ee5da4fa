"""The canonical correlation layer against canonical correlations by numpy, and against the objective `cca`."""

import jax.numpy as jnp
import numpy as np
import pytest
from products import drawn, encodings

import checks
from made import fused
from mmjax.config import ConfigError
from mmjax.fusion.cca import Cca, directions, moments
from mmjax.objectives.cca import correlations

ROWS = 400
SHARED = drawn(ROWS, 2)
X = {
    "a": np.concatenate([SHARED, drawn(ROWS, 2, seed=1)], axis=1) @ drawn(4, 4, seed=2) + 3,
    "b": (SHARED + 0.3 * drawn(ROWS, 2, seed=3)) @ drawn(2, 3, seed=4) + 0.5 * drawn(ROWS, 3, seed=5),
}


def root(c):
    values, vectors = np.linalg.eigh(c)
    return vectors / np.sqrt(values) @ vectors.T


def learnt(module, given):
    """The fused vectors after one batch of training that replaces the averages."""
    variables = checks.drawn(module, given, train=False)
    _, stats = checks.quick(lambda v: module.apply(v, given, train=True, mutable=["batch_stats"]))(variables)
    return stats, fused(module, stats, given).pooled


def test_two_modalities_are_projected_on_their_canonical_directions():
    """With Andrew et al.'s square roots, in numpy: T = S_aa^-1/2 S_ab S_bb^-1/2, and its singular vectors."""
    _, got = learnt(Cca(2, ridge=1e-6, momentum=0.0), encodings(**X))
    a, b = (X[m] - X[m].mean(axis=0) for m in "ab")
    left, right = root(a.T @ a / ROWS), root(b.T @ b / ROWS)
    u, singular, v = np.linalg.svd(left @ (a.T @ b / ROWS) @ right)
    wanted = (a @ left @ u[:, :2] + b @ right @ v[:2].T) / 2
    np.testing.assert_allclose(got * np.sign((got * wanted).sum(axis=0, keepdims=True)), wanted, atol=2e-3)
    np.testing.assert_allclose(got.var(axis=0), (1 + singular[:2]) / 2, atol=1e-3)  # of the mean of two of variance 1
    ones = jnp.ones(ROWS, bool)
    np.testing.assert_allclose(correlations(jnp.asarray(X["a"]), jnp.asarray(X["b"]), ones, 1e-6)[:2], singular[:2], atol=1e-3)


def test_whatever_is_linear_before_it_does_not_matter_and_one_modality_stands_for_both():
    module = Cca(2, ridge=1e-6, momentum=0.0)
    stats, wanted = learnt(module, encodings(**X))
    _, turned = learnt(module, encodings(a=X["a"] @ drawn(4, 4, seed=6), b=X["b"]))
    alone = fused(module, stats, encodings([("b", row) for row in range(ROWS)], **X)).pooled
    for i in range(2):
        assert abs(np.corrcoef(turned[:, i], wanted[:, i])[0, 1]) > 0.999
        assert np.corrcoef(alone[:, i], wanted[:, i])[0, 1] > 0.9


def test_moments_are_those_of_the_rows_that_have_the_features():
    x, there = drawn(5, 2), np.array([[1, 1], [1, 0], [1, 1], [0, 0], [1, 1]], bool)
    mean, covariance, rows, pairs = checks.quick(moments)(np.where(there, x, np.float32(np.nan)), jnp.asarray(there))
    np.testing.assert_array_equal(pairs, [[4, 3], [3, 3]])
    np.testing.assert_allclose(mean, [x[there[:, 0], 0].mean(), x[there[:, 1], 1].mean()], rtol=1e-5)
    both = (x - np.asarray(mean))[[0, 2, 4]]
    np.testing.assert_allclose(covariance[0, 1], (both[:, 0] * both[:, 1]).mean(), rtol=1e-5)
    np.testing.assert_array_equal(rows, [4, 3])


def test_three_modalities_agree_with_each_other_in_the_leading_direction():
    """MAXVAR: no other projections of variance 3 in sum have a sum of larger variance."""
    x = np.concatenate([X["a"], X["b"], SHARED[:, :1] + drawn(ROWS, 2, seed=7)], axis=1)
    c = np.cov(x.T).astype(np.float32)
    w = np.asarray(checks.quick(lambda c: directions(c, [4, 3, 2], 1, 1e-6))(c))[:, 0]
    blocks = np.zeros_like(c)
    for start, end in ((0, 4), (4, 7), (7, 9)):
        blocks[start:end, start:end] = c[start:end, start:end]
    np.testing.assert_allclose(w @ blocks @ w, 3, rtol=1e-3)
    largest = np.linalg.eigvals(np.linalg.solve(blocks, c)).real.max()
    np.testing.assert_allclose(w @ c @ w, 3 * largest, rtol=1e-3)


def test_more_components_than_features():
    with pytest.raises(ConfigError, match="width=8 should be 1 to 7"):
        checks.drawn(Cca(8), encodings(**{m: x[:2] for m, x in X.items()}), train=False)
