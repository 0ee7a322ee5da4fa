"""Late fusion: nothing passes between modalities before the last layer, and there what is absent adds nothing."""

import jax.numpy as jnp
import numpy as np

import checks
from made import encodings, fused
from mmjax.fusion.late_transformer import LateTransformer


def test_streams_meet_in_the_last_layer_only():
    given = encodings(image=(5, 6), text=(3, 4))
    module = LateTransformer(width=8, depth=1, heads=2)
    variables = checks.drawn(module, given, train=False)
    got = fused(module, variables, given)
    other = fused(module, variables, {**given, "image": given["image"]._replace(tokens=-given["image"].tokens)})
    np.testing.assert_array_equal(got.tokens[:, 6:], other.tokens[:, 6:])  # the text's
    assert jnp.abs(got.tokens[:, :6] - other.tokens[:, :6]).max() > 0.1

    out = variables["params"]["out"]
    classes = jnp.concatenate([got.tokens[:, 0], got.tokens[:, 6]], axis=1)
    np.testing.assert_allclose(got.pooled, classes @ out["kernel"] + out["bias"][None], atol=1e-5)
    absent = fused(module, variables, {**given, "image": given["image"]._replace(present=jnp.zeros(3, bool))})
    np.testing.assert_allclose(absent.pooled, got.tokens[:, 6] @ out["kernel"][8:] + out["bias"][None], atol=1e-5)
