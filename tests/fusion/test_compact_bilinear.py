"""MCB against two published codes; sketches estimate products of inner products, and what is absent is left out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from products import BILINEAR, drawn, encodings, golden, is_published

import checks
from made import fused
from mmjax.fusion import compact_bilinear
from mmjax.fusion.compact_bilinear import CompactBilinear, convolved, hashes, sketch


def test_published_values_and_gradients(monkeypatch):
    """With the published hashes. Neither package has the paper's root and length; mmf's sketch is `width` times as long."""
    case = golden("MCB", BILINEAR)
    drawn = {m: (case[f"weights/mcb.sketch{i}.h"].astype(int), case[f"weights/mcb.sketch{i}.s"]) for i, m in enumerate("ab", 1)}
    monkeypatch.setattr(compact_bilinear, "hashes", lambda name, *_: drawn[name])
    is_published("MCB", CompactBilinear(6, normalize=False), {})
    np.testing.assert_allclose(case["z_mmf"] / 6, case["z"], atol=1e-6)


def test_it_is_the_count_sketch_of_the_outer_product():
    """Of three modalities: the product of features i, j, k goes to (h(i) + h(j) + h(k)) mod width with the product of their signs."""
    x = {"a": drawn(2, 3), "b": drawn(2, 4, seed=1), "c": drawn(2, 2, seed=2)}
    found = {m: hashes(m, x[m].shape[1], 7, 0) for m in x}
    places = [place for place, _ in found.values()]
    place = (places[0][:, None, None] + places[1][None, :, None] + places[2][None, None]) % 7
    outer = np.einsum("bi,bj,bk->bijk", *(x[m] * sign for m, (_, sign) in found.items()))
    wanted = np.stack([np.bincount(place.ravel(), row.ravel(), 7) for row in outer])
    np.testing.assert_allclose(fused(CompactBilinear(7, normalize=False), {}, encodings(**x)).pooled, wanted, atol=1e-5)

    got = np.asarray(fused(CompactBilinear(7), {}, encodings(**x)).pooled)
    np.testing.assert_allclose(np.square(got) * np.sign(got), wanted / np.abs(wanted).sum(axis=1, keepdims=True), atol=1e-5)


def test_inner_products_of_sketches_estimate_products_of_inner_products():
    """<x, x'><y, y'>, unbiased over seeds, with a spread that falls with the square root of the width."""
    x, here = {"a": jnp.asarray(drawn(2, 6) + 0.5), "b": jnp.asarray(drawn(2, 5, seed=1) + 0.5)}, jnp.ones((2, 2), bool)
    wanted = np.prod([row[0] @ row[1] for row in x.values()])

    def estimate(hashed, width):
        y = convolved([sketch(x[m], *hashed[m], width) for m in x], here)
        return y[0] @ y[1]

    spreads = []
    for width in (16, 256):
        drawings = [{m: hashes(m, x[m].shape[1], width, seed) for m in x} for seed in range(400)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *drawings)
        found = np.asarray(checks.quick(jax.vmap(partial(estimate, width=width)))(stacked))
        error = found.std() / len(found) ** 0.5
        assert abs(found.mean() - wanted) < 4 * error, (width, found.mean(), wanted, error)
        spreads.append(found.std())
    assert 2.5 < spreads[0] / spreads[1] < 6, spreads  # 4 but for chance


def test_what_is_absent_is_left_out():
    x = {"a": drawn(3, 4), "b": drawn(3, 5, seed=1), "c": drawn(3, 2, seed=2)}
    lacking = encodings([("b", row) for row in range(3)], **x)
    got = fused(CompactBilinear(16), {}, lacking).pooled
    without = fused(CompactBilinear(16), {}, {m: e for m, e in lacking.items() if m != "b"}).pooled
    np.testing.assert_allclose(got, without, atol=1e-6)


def test_hashes_stay_what_they_are():
    """A trained head reads the sketches of these hashes, in all versions of numpy."""
    place, sign = hashes("audio", 6, 16_000, 0)
    assert place.tolist() == [4205, 14543, 10330, 10080, 15470, 7602] and sign.tolist() == [-1, 1, 1, -1, -1, -1]
    assert hashes("image", 6, 16_000, 0)[0].tolist() != place.tolist() != hashes("audio", 6, 16_000, 1)[0].tolist()
    assert set(hashes("a", 1000, 4, 0)[0].tolist()) == {0, 1, 2, 3}
