"""What is particular to the text transformer."""

import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.config import ConfigError
from mmjax.encoders.text_transformer import TextTransformer

IDS = jnp.array([[3, 4, 5, 6, 7], [8, 9, 3, 0, 0]], jnp.int32)
VALID = jnp.array([[True] * 5, [True] * 3 + [False] * 2])


def encoder(**changes):
    module = TextTransformer(**{"vocab": 11, "width": 8, "depth": 2, "heads": 2, **changes})
    variables = checks.drawn(module, IDS, train=False)
    return checks.quick(lambda ids, valid: module.apply(variables, ids, valid, train=False))


def test_causal_attention_does_not_see_what_comes_later():
    encode = encoder()
    before, after = encode(IDS, VALID), encode(IDS.at[0, 3].set(9), VALID)
    np.testing.assert_array_equal(before.tokens[0, :3], after.tokens[0, :3])
    assert (np.abs(before.tokens[0, 3:] - after.tokens[0, 3:]).max(axis=1) > 1e-3).all()


def test_end_pooling_takes_the_last_valid_token():
    e = encoder()(IDS, VALID)
    np.testing.assert_array_equal(e.pooled, jnp.stack([e.tokens[0, 4], e.tokens[1, 2]]))


def test_the_mean_of_a_bidirectional_encoder_ignores_padding():
    encode = encoder(causal=False, pool="mean")
    e = encode(IDS, VALID)
    np.testing.assert_allclose(e.pooled[1], e.tokens[1, :3].mean(axis=0), atol=1e-6)
    padded = encode(IDS.at[1, 3:].set(7), VALID)
    np.testing.assert_array_equal(e.pooled, padded.pooled)
    later = encode(IDS.at[0, 4].set(9), VALID)
    assert np.abs(later.tokens[0, 0] - e.tokens[0, 0]).max() > 1e-3  # the first token sees the last


def test_class_pooling_takes_the_first_token():
    e = encoder(causal=False, pool="class")(IDS, VALID)
    np.testing.assert_array_equal(e.pooled, e.tokens[:, 0])


def test_berts_pooler_is_a_layer_on_the_first_token():
    module = TextTransformer(vocab=11, width=8, depth=1, heads=2, causal=False, pool="pooler")
    variables = checks.drawn(module, IDS, train=False)
    e, own = module.apply(variables, IDS, VALID, train=False), variables["params"]["pooler"]
    np.testing.assert_allclose(e.pooled, np.tanh(e.tokens[:, 0] @ own["kernel"] + own["bias"][None]), atol=1e-5)


class ClassToken:
    @staticmethod
    def tiny():
        return TextTransformer(vocab=11, width=16, depth=2, heads=2, class_token=True), TextTransformer.tiny()[1]


def test_a_class_token_behind_the_text_is_pooled_and_passes_every_check_too():
    """It sees the text from its first token on."""
    encode = encoder(class_token=True)
    e = encode(IDS, VALID)
    assert e.tokens.shape == (2, 6, 8) and e.valid.tolist() == [[True] * 6, [True] * 3 + [False] * 2 + [True]]
    np.testing.assert_array_equal(e.pooled, e.tokens[:, -1])
    other = encode(IDS.at[:, 0].set(9), VALID)
    assert (np.abs(other.pooled - e.pooled).max(axis=1) > 1e-3).all()
    subject = checks.of_encoder(ClassToken)
    for check in (checks.check_contract, checks.check_absent_content, checks.check_all_absent, checks.check_gradients):
        check(subject)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"pool": "max"}, "pool='max'"), ({"pool": "class"}, "needs causal=False"), ({"pool": "pooler"}, "'pooler' needs causal=False")],
)
def test_wrong_names(changes, message):
    with pytest.raises(ConfigError, match=message):
        encoder(**changes)
