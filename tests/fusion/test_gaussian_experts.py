"""Gaussian experts against published code and against integrals over a grid, and what a missing one leaves."""

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
from mmjax.fusion.gaussian_experts import GaussianExperts, divergence, posterior
from mmjax.testing import fusion

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "gaussian_experts.npz")
GRID = np.linspace(-12, 12, 4801)
HERE = jnp.array([[True, True, True], [True, False, True], [False, True, False]])
MEANS, PRECISIONS = jnp.asarray(drawn(3, 3, 1)), jnp.exp(drawn(3, 3, 1, seed=1))


@pytest.mark.parametrize(("case", "components"), [("mvae", "all"), ("mopoe", "subsets")])
def test_is_the_published_product_and_divergence(case, components):
    means, precisions = (jnp.asarray(np.moveaxis(x, 0, 1)) for x in (GOLDEN["mean"], np.exp(-GOLDEN["log_variance"])))

    def run(means, precisions):
        mean, variance, _ = posterior(means, precisions, jnp.ones((3, 3), bool), components)
        return mean.swapaxes(0, 1), jnp.log(variance).swapaxes(0, 1), divergence(mean, variance).mean(axis=1)

    mean, log_variance, kl = checks.quick(run)(means, precisions)
    shape = GOLDEN[f"{case}/mean"].shape
    np.testing.assert_allclose(mean.reshape(shape), GOLDEN[f"{case}/mean"], atol=1e-5)
    np.testing.assert_allclose(log_variance.reshape(shape), GOLDEN[f"{case}/log_variance"], atol=1e-5)
    np.testing.assert_allclose(kl, GOLDEN[f"{case}/kl"], rtol=1e-5)


def density(mean, variance):
    return np.exp(-0.5 * (GRID - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)


def moments(weight):
    """Mean and variance of a density that is known up to a constant, by summing over the grid."""
    weight = weight / weight.sum()
    mean = (weight * GRID).sum()
    return mean, (weight * (GRID - mean) ** 2).sum()


def experts(row, members):
    return [density(MEANS[row, m, 0], 1 / PRECISIONS[row, m, 0]) for m in members]


def test_the_product_with_the_prior_is_the_normalised_product_of_densities_of_those_that_are_there():
    mean, variance, possible = posterior(MEANS, PRECISIONS, HERE, "all")
    assert possible.all() and mean.shape == (3, 1, 1)
    for row in range(3):
        wanted = moments(np.prod([density(0, 1), *experts(row, np.flatnonzero(HERE[row]))], axis=0))
        np.testing.assert_allclose((mean[row, 0, 0], variance[row, 0, 0]), wanted, atol=1e-5)


def test_a_mixture_of_products_has_a_component_for_every_subset_of_what_is_there():
    mean, variance, possible = posterior(MEANS, PRECISIONS, HERE, "subsets")
    np.testing.assert_array_equal(possible.sum(axis=1), [7, 3, 1])
    subsets = [(2,), (1,), (1, 2), (0,), (0, 2), (0, 1), (0, 1, 2)]
    for row in range(3):
        for c in np.flatnonzero(possible[row]):
            wanted = moments(np.prod(experts(row, subsets[c]), axis=0))
            np.testing.assert_allclose((mean[row, c, 0], variance[row, c, 0]), wanted, atol=1e-5)


@pytest.mark.parametrize("components", ["all", "modalities", "subsets"])
def test_draws_have_the_mixtures_moments_and_kl_is_an_integral_that_bounds_that_of_the_mixture(components):
    """One row over and over, in training; what the encoders said is read off their own layers."""
    rows = 4000
    x = {m: np.repeat(drawn(1, 3, seed=i), rows, axis=0) for i, m in enumerate("ab")}
    module = GaussianExperts(1, hidden=4, components=components)
    one = encodings(**{m: value[:1] for m, value in x.items()})
    variables = checks.drawn(module, one, train=False)
    seen = checks.quick(lambda v: module.apply(v, encodings(**x), train=True, rngs={"dropout": jax.random.key(0)}))(variables)

    def said(m):
        p = variables["params"]
        hidden = jax.nn.swish(x[m][:1] @ p[f"{m}_encoder_hidden"]["kernel"] + p[f"{m}_encoder_hidden"]["bias"][None])
        return np.asarray(hidden @ p[f"{m}_encoder"]["kernel"] + p[f"{m}_encoder"]["bias"][None])[0]

    own = [density(mean, np.exp(log_variance)) for mean, log_variance in map(said, "ab")]
    parts = {"all": [density(0, 1) * own[0] * own[1]], "modalities": own, "subsets": [*own, own[0] * own[1]]}[components]
    parts = [part / np.trapezoid(part, GRID) for part in parts]
    mixture, prior = np.mean(parts, axis=0), density(0, 1)
    mean, variance = moments(mixture)
    np.testing.assert_allclose(seen.pooled.mean(), mean, atol=4 * np.sqrt(variance / rows))
    np.testing.assert_allclose(seen.pooled.var(), variance, rtol=0.15)
    np.testing.assert_allclose(fused(module, variables, one).pooled[0, 0], mean, atol=1e-4)

    def integral(q):
        return np.trapezoid(np.where(q > 0, q * np.log(np.where(q > 0, q, 1) / np.maximum(prior, 1e-300)), 0), GRID)

    np.testing.assert_allclose(seen.aux["kl"][0], np.mean([integral(q) for q in parts]), rtol=1e-3)
    assert seen.aux["kl"][0] >= integral(mixture) - 1e-4


def test_the_terms_are_the_negative_log_likelihood_of_what_is_there_and_0_for_what_is_not():
    x = {m: drawn(3, 4, seed=i) for i, m in enumerate("ab")}
    given = encodings([("a", 1)], **x)
    module = GaussianExperts(2, hidden=4)
    variables = checks.drawn(module, given, train=False)
    e = fused(module, variables, given)
    p = variables["params"]
    hidden = jax.nn.swish(e.pooled @ p["a_decoder_hidden"]["kernel"] + p["a_decoder_hidden"]["bias"][None])
    wanted = 0.5 * np.square(hidden @ p["a_decoder"]["kernel"] + p["a_decoder"]["bias"][None] - x["a"]).sum(axis=1)
    np.testing.assert_allclose(e.aux["reconstruction_a"], [wanted[0], 0, wanted[2]], rtol=1e-5)


def test_a_mixture_passes_the_checks_on_absence():
    module = config.build("fusion", {"name": "gaussian_experts", "variant": "mopoe", "width": 4, "hidden": 8}, "fusion")
    subject = fusion.FusionSubject(module, GaussianExperts.tiny()[1])
    for check in (checks.check_absent_content, checks.check_all_absent, fusion.check_every_subset, checks.check_gradients):
        check(subject)


def test_an_unknown_kind_of_mixture():
    with pytest.raises(ConfigError, match="fusion.components='subset' is unknown. Did you mean 'subsets'?"):
        GaussianExperts(components="subset").init({}, encodings(a=drawn(2, 3)), train=False)
