"""The Perceiver reads a set, and may read it again with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np

import checks
from made import encodings, fused
from mmjax.fusion.perceiver import Perceiver


def test_the_order_of_tokens_plays_no_part():
    given = encodings(image=(5, 6), text=(3, 4))
    module = Perceiver(latents=3, width=8, steps=1, depth=1, heads=2)
    variables = checks.drawn(module, given, train=False)
    turned = {m: e._replace(tokens=e.tokens[:, ::-1], valid=e.valid[:, ::-1]) for m, e in given.items()}
    got, wanted = (fused(module, variables, e) for e in (turned, given))
    np.testing.assert_allclose(got.tokens, wanted.tokens, atol=1e-5)
    assert jnp.abs(wanted.tokens[:, 0] - wanted.tokens[:, 1]).max() > 1e-2, "though latents differ"


def test_shared_weights_are_those_of_the_second_step():
    given = encodings(text=(3, 4))
    shared, free = (Perceiver(latents=2, width=8, steps=3, depth=1, heads=2, share=share) for share in (True, False))
    variables = checks.drawn(shared, given, train=False)
    params = variables["params"]
    assert {name for name in params if name.startswith(("cross", "latent_"))} == {"cross_00", "cross_01", "latent_00_00", "latent_01_00"}
    params = {**params, "cross_02": params["cross_01"], "latent_02_00": params["latent_01_00"]}
    wanted = free.apply({"params": params}, given, train=False)
    checks.assert_same(shared.apply(variables, given, train=False), wanted, "Shared", 1e-5)
    shapes = jax.eval_shape(lambda: free.init(jax.random.key(0), given, train=False))["params"]
    assert shapes.keys() == params.keys()
