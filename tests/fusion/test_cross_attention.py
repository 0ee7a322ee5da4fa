"""Cross-attention: one key leaves nothing to choose; rows may lack the main modality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.fusion.cross_attention import CrossAttention
from mmjax.ops.masks import unit


def test_over_a_single_key_every_query_gets_its_value():
    given = encodings(image=(1, 6), text=(3, 4))
    module = CrossAttention(main="text", width=8, depth=1, heads=2)
    variables = checks.drawn(module, given, train=False)
    run = checks.quick(lambda variables, given: module.apply(variables, given, train=False, capture_intermediates=True))
    _, seen = run(variables, given)
    (attended,) = seen["intermediates"]["cross_00"]["attention"]["__call__"]

    w = variables["params"]["cross_00"]
    (key,) = seen["intermediates"]["cross_00"]["norm_context"]["__call__"]
    value = key @ w["attention"]["value"]["kernel"] + w["attention"]["value"]["bias"][None, None]
    wanted = value @ w["attention"]["out"]["kernel"] + w["attention"]["out"]["bias"][None, None]
    assert attended.shape == (3, 4, 8)
    np.testing.assert_allclose(attended, np.broadcast_to(wanted, attended.shape), atol=1e-5)
    assert np.abs(unit(wanted[0]) - unit(wanted[1])).max() > 0.01, "and the rows' values differ"


def test_rows_without_the_main_modality_read_the_others_into_the_class_token():
    given = encodings(image=(4, 6), text=(3, 4))
    given["text"] = given["text"]._replace(present=jnp.array([False, True, True]))
    module = CrossAttention(main="text", width=8, depth=1, heads=2)
    variables = checks.drawn(module, given, train=False)
    got = fused(module, variables, given)
    other = fused(module, variables, {**given, "image": given["image"]._replace(tokens=-given["image"].tokens)})
    np.testing.assert_array_equal(got.valid[0], [True, False, False, False])
    np.testing.assert_array_equal(got.pooled, got.tokens[:, 0])
    assert jnp.abs(got.pooled[0] - other.pooled[0]).max() > 1e-2


def test_a_main_modality_that_is_not_there():
    with pytest.raises(ConfigError, match="fusion.main='txt' is no modality of the model. Did you mean 'text'"):
        CrossAttention(main="txt").init(jax.random.key(0), encodings(text=(3, 4)), train=False)
