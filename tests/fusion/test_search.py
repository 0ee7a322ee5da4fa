"""Searched fusion: the mixture contains the networks that can be found in it, and says which it leans to.

Not independent: MFAS's published code trains each architecture by itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import made
from mmjax.config import ConfigError
from mmjax.fusion.search import OPERATIONS, Search, found, parsed

GIVEN = made.encodings(image=(4, 8), text=(3, 4))


def mixture(**changes):
    module = Search(width=6, **changes)
    return module, jax.jit(lambda: module.init(jax.random.key(1), GIVEN, train=False)["params"])()


def decided(params, layer, operation, **levels):
    """The same parameters, sure of one architecture."""
    choices = {f"architecture_{m}_{layer}": level - 1 for m, level in levels.items()}
    choices[f"architecture_operation_{layer}"] = list(OPERATIONS).index(operation)
    return {**params, **{name: 100.0 * jax.nn.one_hot(choice, params[name].size) for name, choice in choices.items()}}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_mixture_that_is_sure_is_the_network_that_is_found_in_it(operation):
    module, params = mixture()
    params = decided(decided(params, 0, "tanh", image=2, text=3), 1, operation, image=1, text=2)
    told = found(params)
    assert told == f"image:2 text:3 tanh | image:1 text:2 {operation}"
    alone = Search(width=6, architecture=told)
    wanted = made.fused(module, {"params": params}, GIVEN)
    fits = jax.eval_shape(lambda: alone.init(jax.random.key(0), GIVEN, train=False))["params"]
    assert not any(name.startswith("architecture") for name in fits) and set(fits) < set(params)
    got = made.fused(alone, {"params": {name: params[name] for name in fits}}, GIVEN)
    np.testing.assert_allclose(got.pooled, wanted.pooled, atol=1e-6)


def test_one_layer_by_hand():
    module = Search(width=6, architecture="image:2 text:1 sigmoid")
    params = module.init(jax.random.key(1), GIVEN, train=False)["params"]

    def normed(x, weights):
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6)
        return x * np.asarray(weights["scale"]) + np.asarray(weights["bias"])

    image, text = GIVEN["image"], GIVEN["text"]
    count = np.asarray(image.valid).sum(axis=1, keepdims=True)
    level = (np.asarray(image.stages[-1]) * np.asarray(image.valid)[:, :, None]).sum(axis=1) / count
    total = normed(level, params["image_0_2_norm"]) @ np.asarray(params["image_0_2"]["kernel"])
    total = total + normed(np.asarray(text.pooled), params["text_0_1_norm"]) @ np.asarray(params["text_0_1"]["kernel"])
    got = made.fused(module, {"params": params}, GIVEN).pooled
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-total - np.asarray(params["bias_0"]))), atol=1e-5)


def test_the_search_finds_the_level_that_tells():
    """What is asked for stands in one level of the image alone: that one is found."""
    rows, rng = 64, np.random.default_rng(0)
    given = made.encodings(rows, image=(4, 8), text=(3, 4))
    target = np.asarray(rng.normal(size=rows), np.float32)
    stage = jnp.asarray(rng.normal(size=(rows, 4, 8)), jnp.float32).at[:, :, 0].set(target[:, None])
    noise = lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32)  # noqa: E731
    given = {m: e._replace(pooled=noise(e.pooled), stages=tuple(map(noise, e.stages))) for m, e in given.items()}
    given["image"] = given["image"]._replace(stages=(given["image"].stages[0], stage))
    module = Search(width=8, layers=1)
    params = {"fusion": module.init(jax.random.key(0), given, train=False)["params"], "head": jnp.zeros(8)}
    tx = optax.adam(0.03)

    def loss(params):
        return jnp.mean((module.apply({"params": params["fusion"]}, given, train=True).pooled @ params["head"] - target) ** 2)

    @jax.jit
    def trained(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, length=60)[0][0]

    with jax.numpy_dtype_promotion("standard"):
        assert "image:2" in found(trained(params)["fusion"])


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("image:1 text:1 relo", "'relo' is unknown. Did you mean 'relu'"),
        ("imgae:1 text:1 relu", "'imgae' is no modality. Did you mean 'image'"),
        ("image:9 text:1 relu", "'image:9' should have a level of 1 to 3"),
        ("image:1 relu", "says nothing of 'text'"),
        ("", "the operation '' is unknown"),
    ],
)
def test_what_an_architecture_names_has_to_be_there(architecture, message):
    with pytest.raises(ConfigError) as error:
        parsed(architecture, {"image": 3, "text": 3})
    assert message in str(error.value)
    with pytest.raises(ConfigError, match="should be 1 to 3"):
        Search(levels=4).init(jax.random.key(0), GIVEN, train=False)
