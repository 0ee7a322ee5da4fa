"""MISA against its authors' code, and its losses where rows lack modalities."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from products import drawn, encodings

import checks
from mmjax.fusion import misa
from mmjax.fusion.misa import Misa
from torch_weights import attention, dense, norm, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "misa.npz")
similarity, difference = checks.quick(misa.similarity), checks.quick(misa.difference)  # eager, each operation would be compiled
NAMES = {"t": ("a", "text"), "v": ("b", "visual"), "a": ("c", "acoustic")}  # ours stand in the order of theirs


def test_is_the_authors_model_with_its_losses():
    w, layer = weights(GOLDEN, "misa"), "transformer_encoder.layers.0"
    block = {"attention": attention(w, f"{layer}.self_attn"), "norm_1": norm(w, f"{layer}.norm1"), "norm_2": norm(w, f"{layer}.norm2")}
    block["mlp"] = {"in": dense(w, f"{layer}.linear1"), "out": dense(w, f"{layer}.linear2")}
    params = {"transformer": block, "shared": dense(w, "shared.shared_1"), "out": dense(w, "fusion.fusion_layer_1")}
    for m, (ours, _) in NAMES.items():
        params[f"{ours}_in"], params[f"{ours}_norm"] = dense(w, f"project_{m}.project_{m}"), norm(w, f"project_{m}.project_{m}_layer_norm")
        params[f"{ours}_private"] = dense(w, f"private_{m}.private_{m}_{3 if m == 'a' else 1}")
        params[f"{ours}_reconstruction"] = dense(w, f"recon_{m}.recon_{m}_1")
    given = encodings(**{ours: GOLDEN[f"x_{theirs}"] for ours, theirs in NAMES.values()})
    run = checks.quick(lambda params: Misa(4, hidden=8).apply({"params": params}, given, train=True, rngs={"dropout": jax.random.key(0)}))
    got = run(params)
    np.testing.assert_allclose(got.pooled, GOLDEN["y"], atol=1e-5)
    np.testing.assert_allclose(got.aux["similarity"], np.full(5, GOLDEN["cmd"]), rtol=1e-5)
    np.testing.assert_allclose(got.aux["difference"], np.full(5, GOLDEN["diff"] * (4 / 5) ** 2), rtol=1e-5)  # the norm of a mean
    np.testing.assert_allclose(got.aux["reconstruction"].mean(), GOLDEN["recon"], rtol=1e-5)


def test_the_losses_are_those_of_the_rows_that_have_what_they_compare():
    private, shared = ([jnp.asarray(drawn(6, 3, seed=s + i)) for i in range(2)] for s in (0, 10))
    here = jnp.asarray(np.arange(6)[:, None] < np.array([[4, 6]]))
    first = np.arange(4)
    cut = similarity([shared[0][first], shared[1][first]], here[first])
    assert similarity(shared, here) != cut, "the second modality has two rows more"
    np.testing.assert_allclose(similarity(shared, here[:, :1].repeat(2, axis=1)), cut, rtol=1e-5)
    assert similarity(shared, here & jnp.array([[True, False]])) == 0, "nothing to compare with"

    def pair(x, y):  # with one modality there is one pair
        return difference([x], [y], jnp.ones((len(x), 1), bool))

    wanted = pair(private[0][first], shared[0][first]) + pair(private[1], shared[1]) + pair(private[0][first], private[1][first])
    np.testing.assert_allclose(difference(private, shared, here), wanted, rtol=1e-5)


def test_discrepancy_is_0_for_equal_distributions_with_a_finite_slope_and_orthogonal_features_differ_by_0():
    x, here = jnp.asarray(drawn(6, 3)), jnp.ones((6, 2), bool)
    loss, slope = checks.quick(jax.value_and_grad(lambda y: misa.similarity([x, y], here)))(x[::-1])
    assert loss < 1e-5 and np.isfinite(slope).all()
    left = jnp.array([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
    right = jnp.array([[0, 1.0], [0, 1], [0, -1], [0, -1]])
    assert difference([left], [right], here[:4, :1]) < 1e-6 < difference([left], [left], here[:4, :1])
