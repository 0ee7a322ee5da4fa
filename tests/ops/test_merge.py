"""Token merging against the code of its authors."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.ops.merge import matching, merge, most, places

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "merge.npz")


def merged(keys, x, size, protected):
    how = matching(keys, 4, protected)
    y, sizes = merge(how, x, size)
    return y, sizes, jnp.take_along_axis(y, places(how)[..., None], axis=1)


@pytest.mark.parametrize("protected", [0, 1, 2])
def test_tokens_and_sizes_are_those_of_the_authors(protected):
    keys, x, size = (jnp.asarray(GOLDEN[name]) for name in ("keys", "x", "size"))
    y, sizes, back = merged(keys, x, size, protected)
    np.testing.assert_allclose(y, GOLDEN[f"{protected}/x"], atol=1e-5)
    np.testing.assert_array_equal(sizes, GOLDEN[f"{protected}/size"])
    if protected < 2:
        np.testing.assert_allclose(back, GOLDEN[f"{protected}/unmerged"], atol=1e-5)
    np.testing.assert_allclose(y[:, :protected], x[:, :protected], atol=1e-6)
    # Nothing gets lost, and a token that stands for one is where its places say.
    np.testing.assert_allclose((y * sizes[..., None]).sum(axis=1), (x * size[..., None]).sum(axis=1), atol=1e-4)


def test_what_is_equal_becomes_one_before_all_else():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 10, 4)).astype(np.float32)
    x[0, 4], x[0, 8] = x[0, 7], 3 * x[0, 1]  # cosine 1
    how = matching(jnp.asarray(x), 2, protected=1)
    _, sizes = merge(how, jnp.asarray(x), jnp.ones((1, 10)))
    went = np.asarray(places(how))[0]
    assert went[4] == went[7] and went[8] == went[1] and len(set(went)) == 8
    assert sizes[0, went[4]] == 2 and sizes[0, went[8]] == 2 and sizes.sum() == 10


def test_at_most_half_of_what_is_not_protected():
    assert [most(9, 100, protected) for protected in (0, 1, 3)] == [4, 4, 3] and most(9, 2, 0) == 2 and most(3, 5, 3) == 0
