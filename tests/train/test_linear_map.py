"""Maps in closed form are those of scikit-learn and numpy, and a run begins with them."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from mmjax.config import ConfigError
from mmjax.train.linear_map import LinearMap
from mmjax.train.loop import train
from toy import toy_config

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)) + 3
Y = X @ RNG.normal(size=(5, 4)) + 0.1 * RNG.normal(size=(60, 4)) - 2


def test_ridge_is_scikit_learns():
    (kernel, bias), (identity, shift) = LinearMap(("image", "text"), ridge=0.2).solve(X, Y, 4)
    variance = np.trace(np.cov(X.T, bias=True)) / 5
    theirs = Ridge(alpha=0.2 * variance * 60).fit(X, Y)
    np.testing.assert_allclose(X @ kernel + bias, theirs.predict(X) - Y.mean(axis=0), atol=1e-8)
    np.testing.assert_allclose(Y @ identity + shift, Y - Y.mean(axis=0), atol=1e-8)


def test_canonical_directions_are_uncorrelated_and_their_correlations_those_of_numpy():
    (a, of_a), (b, of_b) = LinearMap(("image", "text"), "cca", ridge=1e-9, power=0.0).solve(X, Y, 3)
    u, v = X @ a + of_a, Y @ b + of_b
    both = np.corrcoef(u.T, v.T)
    np.testing.assert_allclose(both[:3, :3], np.eye(3), atol=1e-5)
    centred = [z - z.mean(axis=0) for z in (X, Y)]
    q = [np.linalg.qr(z)[0] for z in centred]
    wanted = np.linalg.svd(q[0].T @ q[1])[1][:3]  # Björck & Golub, 1973
    np.testing.assert_allclose(np.diag(both[:3, 3:]), wanted, atol=1e-5)


MAPPED = {
    "steps": 1,
    "optimizer__warmup": 0,
    "optimizer__rules": [("contrastive/.*", {}), (".*", {"freeze": True})],
    "model__projection": {"image": "affine", "text": "affine"},
    "linear_map": {"pair": ("image", "text"), "method": "cca", "ridge": 0.05},
    "evals": {"retrieval": {"name": "retrieval", "baseline": None}},
}


def test_a_run_begins_with_the_map_and_goes_on_without_it(tmp_path):
    """Of encoders that were never trained: a map that was learned on train finds unseen pairs more often than one that was drawn."""
    found = train(toy_config(**MAPPED, model__width=8), tmp_path / "cca")
    drawn = train(toy_config(**{**MAPPED, "linear_map": None}, model__width=8), tmp_path / "drawn")
    key = "test/retrieval/text_to_image/median_rank"
    assert found[key] < drawn[key]
    again = train(toy_config(**MAPPED, model__width=8), tmp_path / "cca")  # it is finished: nothing is solved anew
    assert again[key] == found[key]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"linear_map": {"pair": ("image", "text"), "method": "cc"}}, "Did you mean 'cca'"),
        ({"linear_map": {"pair": ("image",)}}, "two streams"),
        ({"linear_map": {"pair": ("image", "text"), "rige": 1.0}}, "Did you mean 'ridge'"),
        ({"model__projection": {"image": "affine"}}, "'text' has no affine projection"),
        ({"model__width": 64}, "canonical correlations"),
    ],
)
def test_what_does_not_go_together(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        train(toy_config(**{**MAPPED, **changes}), tmp_path / "run")
