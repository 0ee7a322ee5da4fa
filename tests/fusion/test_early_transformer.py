"""Early fusion: one transformer, to which a token's modality is its embedding and nothing else."""

import jax.numpy as jnp
import numpy as np

import checks
from made import encodings, fused
from mmjax.fusion.early_transformer import EarlyTransformer


def test_modalities_of_one_embedding_are_one_set_of_tokens():
    given = encodings(image=(5, 4), text=(3, 4))
    turned = {"image": given["text"], "text": given["image"]}
    module = EarlyTransformer(width=8, depth=1, heads=2)
    variables = checks.drawn(module, given, train=False)

    def pooled(encodings, embedding):
        layers = {"image_in": variables["params"]["text_in"], "text_in": {**variables["params"]["text_in"], "bias": embedding}}
        return fused(module, {"params": {**variables["params"], **layers}}, encodings).pooled

    same = variables["params"]["text_in"]["bias"]
    np.testing.assert_allclose(pooled(given, same), pooled(turned, same), atol=1e-5)
    assert jnp.abs(pooled(given, -same) - pooled(turned, -same)).max() > 1e-3, "another embedding tells them apart"
