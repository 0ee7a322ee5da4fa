"""Attention pooling: a row is pooled over its real tokens alone, whichever modality they are of."""

import jax.numpy as jnp
import numpy as np

import checks
from made import encodings, fused
from mmjax.fusion.attention_pooling import AttentionPooling
from mmjax.nn.transformer import AttentionPool
from mmjax.ops.masks import zero_absent


def test_a_row_is_the_attention_pool_of_its_real_tokens():
    x = encodings(rows=3, a=(4, 6), b=(3, 5))
    for m, present in {"a": [True, False, False], "b": [True, True, False]}.items():
        x[m] = x[m]._replace(present=jnp.array(present))
    module = AttentionPooling(8, heads=2)
    variables = checks.drawn(module, x, train=False)
    got, pool = fused(module, variables, x), variables["params"]["pool"]
    x = zero_absent(x)
    for row in (0, 1):
        real = [(variables["params"][f"{m}_in"], x[m].tokens[row][np.array(x[m].valid[row])]) for m in "ab"]
        tokens = np.concatenate([t @ dense["kernel"] + dense["bias"][None] for dense, t in real])
        np.testing.assert_allclose(got.tokens[row][got.valid[row]], tokens, atol=1e-5)
        alone = checks.quick(lambda t: AttentionPool(2).apply({"params": pool}, t, train=False))(tokens[None, ::-1])  # in any order
        np.testing.assert_allclose(got.pooled[row], alone[0], atol=1e-5)
    assert not got.valid[2].any() and not got.pooled[2].any()
