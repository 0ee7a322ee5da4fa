"""The bottleneck transformer against its authors' code, and what the bottlenecks carry."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.bottleneck import Bottleneck

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "bottleneck.npz")


def scenic_block(name):
    """The parameters of one of their blocks as ours."""

    def layer(path, *parts):
        return {part: jnp.asarray(GOLDEN[f"weights/{name}/{path}/{part}"]) for part in parts}

    def flat(part):
        kernel, bias = layer(f"MultiHeadDotProductAttention_0/{part}", "kernel", "bias").values()
        return {"kernel": kernel.reshape(8, 8), "bias": bias.reshape(8)}

    return {
        "attention": {part: flat(part) for part in ("query", "key", "value", "out")},
        "norm_1": layer("LayerNorm_0", "scale", "bias"),
        "norm_2": layer("LayerNorm_1", "scale", "bias"),
        "mlp": {"in": layer("MlpBlock_0/Dense_0", "kernel", "bias"), "out": layer("MlpBlock_0/Dense_1", "kernel", "bias")},
    }


def test_is_the_authors_encoder():
    params = {
        "bottlenecks": {"tokens": jnp.asarray(GOLDEN["bottleneck"])},
        "norm": {part: jnp.asarray(GOLDEN[f"weights/encoder_norm/{part}"]) for part in ("scale", "bias")},
    }
    given = {}
    for m, ours, suffix in (("rgb", "a", ""), ("spectrogram", "b", "_spectrogram")):
        x = jnp.asarray(GOLDEN[f"x_{m}"])
        ones = jnp.ones(x.shape[:2], bool)
        given[ours] = Encoding(x[:, 1:], ones[:, 1:], x[:, 0], ones[:, 0])
        params[f"{ours}_class_token"] = {"tokens": x[:1, :1]}
        params[f"{ours}_in"] = {"kernel": jnp.eye(8), "bias": jnp.zeros(8)}
        params |= {f"{ours}_block_{i:02d}": scenic_block(f"encoderblock_{i}{suffix}") for i in range(3)}
    module = Bottleneck(width=8, depth=3, fusion_layer=1, bottlenecks=3, heads=2, mlp_ratio=2)
    got = fused(module, {"params": params}, given)
    np.testing.assert_allclose(got.tokens, GOLDEN["y"], atol=2e-5)
    np.testing.assert_allclose(got.pooled, (GOLDEN["y"][:, 0] + GOLDEN["y"][:, 5]) / 2, atol=2e-5)


def test_without_bottlenecks_the_streams_are_separate_and_with_them_an_absent_modality_has_no_part():
    given = encodings(image=(5, 6), text=(3, 4))
    given["image"] = given["image"]._replace(present=given["image"].present.at[0].set(False))
    for count in (0, 2):
        module = Bottleneck(width=8, depth=2, bottlenecks=count, heads=2)
        variables = checks.drawn(module, given, train=False)
        together = fused(module, variables, given)
        alone = fused(module, variables, {"text": given["text"]})
        apart = np.abs(together.tokens[:, 6:] - alone.tokens).max(axis=(1, 2))
        assert apart[0] < 1e-5, "the row without an image is as if there were none"
        assert (apart[1:] > 1e-2).all() if count else (apart < 1e-5).all()
        np.testing.assert_allclose(together.pooled[0], alone.pooled[0], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage": 2}, "stage=2: the encoder of 'text' gives 2 stages"),
        ({"fusion_layer": 4}, "fusion_layer=4 is not among the layers 0 to 3"),
    ],
)
def test_a_layer_that_is_not_there(fields, message):
    with pytest.raises(ConfigError, match=message):
        Bottleneck(width=8, heads=2, **fields).init(jax.random.key(0), encodings(text=(3, 4)), train=False)
