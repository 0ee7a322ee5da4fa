"""The non-local gate begins as the identity, and with its outer layers taken out it is MultiBench's."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import checks
from made import encodings, fused
from mmjax.contract import Encoding
from mmjax.fusion.nl_gate import NLGate
from mmjax.ops.masks import masked_mean
from torch_weights import dense, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_tokens.npz")


def test_begins_as_the_identity():
    given = encodings(image=(5, 6), text=(3, 4))
    image = given["image"]._replace(present=given["image"].present.at[0].set(False))
    got, variables = checks.quick(
        lambda: NLGate(main="image", hidden=4).init_with_output(jax.random.key(0), given | {"image": image}, train=False)
    )()
    np.testing.assert_array_equal(got.tokens[1:, :5][image.valid[1:]], image.tokens[1:][image.valid[1:]])
    np.testing.assert_allclose(got.pooled[1:], masked_mean(image.tokens, image.valid)[1:], atol=1e-6)
    np.testing.assert_array_equal(got.pooled[0], variables["params"]["stand_in"]["tokens"][0, 0])
    np.testing.assert_array_equal(got.valid, [[False] * 5 + [True], *([*row, False] for row in np.asarray(image.valid[1:]))])


def test_is_multibenchs():
    x, y = jnp.asarray(GOLDEN["nl_gate/x"]), jnp.asarray(GOLDEN["nl_gate/context"])
    w = weights(GOLDEN, "nl_gate")
    plain = {"kernel": jnp.eye(5), "bias": jnp.zeros(5)}  # they have neither a layer for queries nor one at the end
    params = {"stand_in": {"tokens": jnp.zeros((1, 1, 5))}, "query": plain, "out": plain}
    params |= {"text_key": dense(w, "key"), "text_value": dense(w, "value")}
    given = {m: Encoding(v, jnp.ones(v.shape[:2], bool), v[:, 0], jnp.ones(len(v), bool)) for m, v in (("image", x), ("text", y))}
    got = fused(NLGate(main="image", hidden=5), {"params": params}, given)
    np.testing.assert_allclose(got.tokens[:, :4], GOLDEN["nl_gate/y"], atol=1e-5)
