"""The shared transformer against `late_transformer` with tied weights, and that its weights are one set."""

import jax
import jax.numpy as jnp
import numpy as np

import checks
from made import encodings, fused
from mmjax.fusion.late_transformer import LateTransformer
from mmjax.fusion.shared_transformer import SharedTransformer

GIVEN = encodings(image=(5, 6), text=(3, 4))


def test_is_late_fusion_with_tied_weights_and_an_average_at_the_end():
    here = jnp.array([True, False, True])
    given = GIVEN | {"image": GIVEN["image"]._replace(present=here)}
    module = SharedTransformer(width=8, depth=1, heads=2)
    variables = checks.drawn(module, given, train=False)
    p = dict(variables["params"])
    shared = p.pop("transformer")
    tied = {**p, "image_transformer": shared, "text_transformer": shared}
    tied["out"] = {"kernel": jnp.concatenate([jnp.eye(8), jnp.eye(8)]), "bias": jnp.zeros(8)}  # the sum
    got = fused(module, variables, given)
    wanted = fused(LateTransformer(width=8, depth=1, heads=2), {"params": tied}, given)
    np.testing.assert_allclose(got.tokens, wanted.tokens, atol=1e-5)
    np.testing.assert_allclose(got.pooled, np.asarray(wanted.pooled) / np.array([[2], [1], [2]]), atol=1e-5)


def test_more_modalities_have_more_weights_only_before_the_transformer():
    def shapes(names):
        given = {m: GIVEN["text"] for m in names}
        return jax.eval_shape(lambda: SharedTransformer(width=8, depth=1, heads=2).init(jax.random.key(0), given, train=False))["params"]

    more, fewer = shapes(("a", "b", "c")), shapes(("a", "b"))
    assert set(more) - set(fewer) == {"c_in", "c_class_token"}
    assert jax.tree.map(lambda x: x.shape, more["transformer"]) == jax.tree.map(lambda x: x.shape, fewer["transformer"])
