"""The autoencoder's and MFM's parts against plain arithmetic and draws. Not independent of a published program."""

import jax
import jax.numpy as jnp
import numpy as np
from products import drawn, encodings

import checks
from made import fused
from mmjax.fusion import autoencoder
from mmjax.fusion.autoencoder import Autoencoder, kept

discrepancy = checks.quick(autoencoder.discrepancy)  # eager, each operation would be compiled
X = {m: drawn(4, 3, seed=i) for i, m in enumerate("ab")}


def layer(p, name, x):
    return x @ p[name]["kernel"] + p[name]["bias"]


def relu(x):
    return np.maximum(x, 0)


def test_every_choice_of_what_is_there_is_as_probable_and_none_of_what_is_not():
    here = jnp.tile(jnp.array([[True, True], [True, False], [False, False]]), (3000, 1))
    seen = np.asarray(checks.quick(kept)(jax.random.key(0), here)).reshape(3000, 3, 2)
    for choice in ((True, False), (False, True), (True, True)):
        assert abs((seen[:, 0] == choice).all(axis=1).mean() - 1 / 3) < 0.04
    assert (seen[:, 1] == (True, False)).all() and not seen[:, 2].any()


def test_in_training_an_input_is_dropped_but_not_from_the_targets():
    given = encodings(**X)
    module = Autoencoder(4, hidden=5)
    variables = checks.drawn(module, given, train=False)
    step = checks.quick(lambda key: module.apply(variables, given, train=True, rngs={"dropout": key}))
    without = fused(module, variables, encodings([("b", row) for row in range(4)], **X)).pooled
    found = [step(jax.random.key(i)) for i in range(4)]
    lost = [np.isclose(e.pooled, without, atol=1e-5).all(axis=1) for e in found]
    assert np.any(lost) and not np.all(lost), "in a third of the rows there is only a"
    for e, rows in zip(found, lost, strict=True):
        p = jax.tree.map(np.asarray, variables["params"])
        wanted = np.square(layer(p, "b_decoder", relu(layer(p, "b_decoder_hidden", np.asarray(e.pooled)))) - X["b"]).mean(axis=1)
        np.testing.assert_allclose(e.aux["reconstruction_b"][rows], wanted[rows], rtol=1e-5)
        assert (e.aux["reconstruction_b"][rows] > 0).all()


def test_mfm_is_its_equations():
    """Codes z of everything and of each modality, factors F(z), and decoders G(F_y, F_m), in numpy; the head reads F_y only."""
    module = Autoencoder(4, hidden=5, private=2, drop=False, prior=True)
    given = encodings([("b", 1)], **X)
    variables = checks.drawn(module, given, train=False)
    e = checks.quick(lambda v: module.apply(v, given, train=True))(variables)
    p = jax.tree.map(np.asarray, variables["params"])
    there = {"a": np.ones((4, 1)), "b": np.array([1, 0, 1, 1])[:, None]}
    hidden = {m: there[m] * relu(layer(p, f"{m}_hidden", X[m])) for m in "ab"}
    code = layer(p, "code", np.concatenate([hidden["a"], hidden["b"]], axis=1))
    factor, private = relu(layer(p, "factor", code)), {m: there[m] * layer(p, f"{m}_code", hidden[m]) for m in "ab"}
    np.testing.assert_allclose(e.pooled, factor, atol=1e-5)
    for m in "ab":
        both = np.concatenate([factor, relu(layer(p, f"{m}_factor", private[m]))], axis=1)
        made = layer(p, f"{m}_decoder", relu(layer(p, f"{m}_decoder_hidden", both)))
        np.testing.assert_allclose(e.aux[f"reconstruction_{m}"], there[m][:, 0] * np.square(made - X[m]).mean(axis=1), rtol=1e-4)
    rows = {"a": jnp.ones(4, bool), "b": jnp.asarray(there["b"][:, 0] == 1)}
    apart = [(code, rows["a"]), (private["a"], rows["a"]), (private["b"], rows["b"])]
    np.testing.assert_allclose(e.aux["prior"], np.full(4, sum(discrepancy(jnp.asarray(z, jnp.float32), r) for z, r in apart)), atol=1e-5)
    assert not fused(module, variables, given).aux["prior"].any()


def test_the_discrepancy_is_the_kernels_means_over_draws_of_the_prior_and_0_for_the_prior_itself():
    z, here = jnp.asarray(drawn(6, 3)) + 0.5, jnp.arange(6) < 4
    draws = drawn(2000, 3, seed=1)

    def mean(x, y):
        return np.exp(-np.square(x[:, None] - y[None]).sum(axis=2) / 3).mean()

    x = np.asarray(z[:4])
    wanted = mean(x, x) - 2 * mean(x, draws) + mean(draws[:1000], draws[1000:])
    np.testing.assert_allclose(discrepancy(z.at[5].set(jnp.nan), here), wanted, atol=0.01)
    here = jnp.ones(2000, bool)
    assert 0 <= discrepancy(jnp.asarray(draws), here) < 1e-3 < discrepancy(jnp.asarray(draws) + 1, here)
