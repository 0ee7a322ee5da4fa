"""The aligner: shared weights, some of the streams, unit norm, zero where absent, errors."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.config import ConfigError
from mmjax.models.aligner import Aligner

VIT = {"name": "vit", "patch": 4, "width": 8, "depth": 1, "heads": 2}
TEXT = {"name": "text_transformer", "vocab": 11, "width": 12, "depth": 1, "heads": 2}
RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.uniform(-1, 1, (4, 8, 8, 3)), jnp.float32)
BATCH = {
    "image": IMAGE,
    "image_view2": IMAGE[::-1],
    "text": jnp.asarray(RNG.integers(0, 11, (4, 5)), jnp.int32),
    "text/valid": jnp.asarray(np.arange(5) < np.array([5, 2, 3, 1])[:, None]),
    "text/present": jnp.array([True, False, True, True]),
    "_mask": jnp.array([True, True, True, False]),
    "label": jnp.zeros(4, jnp.int32),
}


@cache
def model_and_variables():
    model = Aligner({"image": VIT, "image_view2": "image", "text": TEXT}, width=6)
    return model, checks.drawn(model.module, BATCH, train=False), checks.quick(lambda v, batch: model.apply(v, batch, train=False)[0])


def test_unit_norm_and_zero_where_absent():
    _, variables, run = model_and_variables()
    outputs = run(variables, BATCH)
    assert set(outputs) == {f"{m}/{part}" for m in ("image", "image_view2", "text") for part in ("z", "pooled", "tokens", "valid")}
    for stream, here in {"image": [1, 1, 1, 0], "text": [1, 0, 1, 0]}.items():
        np.testing.assert_allclose(jnp.linalg.norm(outputs[f"{stream}/z"], axis=1), here, atol=1e-6)
        assert (outputs[f"{stream}/valid"].any(axis=1) == jnp.array(here, bool)).all()
    assert outputs["image/z"].shape == (4, 6) and outputs["text/tokens"].shape == (4, 5, 12)


def test_a_shared_encoder_has_one_set_of_weights():
    model, variables, run = model_and_variables()
    assert set(variables["params"]) == {"image", "image_projection", "text", "text_projection"}
    assert tuple(sorted(model.encoders)) == ("image", "image_view2", "text")
    outputs = run(variables, {key: value for key, value in BATCH.items() if key != "_mask"})
    np.testing.assert_allclose(outputs["image/z"][::-1], outputs["image_view2/z"], atol=1e-6)


def test_a_batch_may_carry_some_of_the_streams():
    _, variables, run = model_and_variables()
    whole = run(variables, BATCH)
    for streams in (["text"], ["image_view2"]):
        some = run(variables, {key: value for key, value in BATCH.items() if key.split("/")[0] in (*streams, "_mask")})
        assert {name.split("/")[0] for name in some} == set(streams)
        np.testing.assert_allclose(some[f"{streams[0]}/z"], whole[f"{streams[0]}/z"], atol=1e-6)
    model, *_ = model_and_variables()
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), {"image_view2": IMAGE}))
    assert set(shapes["params"]) == {"image", "image_projection"}  # under the name of the owner
    assert run(variables, {"label": BATCH["label"], "audio": jnp.zeros((4, 9))}) == {}


def test_absent_content_changes_neither_outputs_nor_gradients():
    model, variables, _ = model_and_variables()

    @checks.quick
    @jax.value_and_grad
    def run(variables, batch):
        outputs, _ = model.apply(variables, batch, train=True)
        return (outputs["text/z"][:, 0] + outputs["image/z"][:, 1]).sum()

    wanted = run(variables, BATCH)
    dirty = {**BATCH, "image": IMAGE.at[3].set(jnp.nan), "text": BATCH["text"].at[jnp.array([1, 3])].set(10**6)}
    checks.assert_same(run(variables, dirty), wanted, "With something else in absent rows")


def test_batch_statistics_pass_through():
    model = Aligner({"image": {"name": "resnet", "width": 4, "depths": (1,), "norm": "batch", "stem": "small"}}, width=6)
    batch = {"image": IMAGE, "image/present": jnp.array([True, True, False, False])}
    variables = checks.drawn(model.module, batch, train=False)
    _, stats = checks.quick(lambda v: model.apply(v, batch, train=True))(variables)
    before, after = variables["batch_stats"]["image"]["stem_norm"]["batch"], stats["batch_stats"]["image"]["stem_norm"]["batch"]
    assert not np.allclose(before["mean"], after["mean"])


def test_half_precision_encoders_give_float32_embeddings():
    model = Aligner({"image": {**VIT, "dtype": "bfloat16"}}, width=6)
    with jax.numpy_dtype_promotion("standard"):
        outputs = jax.eval_shape(lambda: model.module.init_with_output(jax.random.key(0), {"image": IMAGE}, train=False)[0])
    assert outputs["image/tokens"].dtype == jnp.bfloat16
    assert outputs["image/z"].dtype == jnp.float32


def test_a_projection_with_a_hidden_layer():
    model = Aligner({"text": TEXT}, width=8, projection={"text": "mlp"})
    variables = checks.drawn(model.module, BATCH, train=False)
    outputs, own = checks.quick(lambda v: model.apply(v, BATCH, train=False)[0])(variables), variables["params"]["text_projection"]
    hidden = np.maximum(np.asarray(outputs["text/pooled"]) @ own["hidden"]["kernel"] + own["hidden"]["bias"][None], 0)
    z = hidden @ np.asarray(own["kernel"]) + own["bias"][None]
    here = np.array([0, 2])
    np.testing.assert_allclose(outputs["text/z"][here], (z / np.linalg.norm(z, axis=1, keepdims=True))[here], atol=1e-5)


def test_a_projection_can_have_a_bias_or_be_none():
    model = Aligner({"image": VIT, "text": TEXT}, width=8, projection={"image": "none", "text": "affine"})
    variables = checks.drawn(model.module, BATCH, train=False)
    assert "image_projection" not in variables["params"] and variables["params"]["text_projection"]["bias"].shape == (8,)
    z = checks.quick(lambda v: model.apply(v, BATCH, train=False)[0]["image/z"])(variables)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=1), [1, 1, 1, 0], atol=1e-6)
    with pytest.raises(ConfigError, match="leaves the encoder's width of 8: model.width should be that, not 6"):
        jax.eval_shape(Aligner({"image": VIT}, width=6, projection={"image": "none"}).init, jax.random.key(0), BATCH)
    with pytest.raises(ConfigError, match="projection.image='afine' is unknown. Did you mean 'affine'"):
        Aligner({"image": VIT}, projection={"image": "afine"})
    with pytest.raises(ConfigError, match="projection.imag: no such encoder. Did you mean 'image'"):
        Aligner({"image": VIT}, projection={"imag": "none"})


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({"picture": VIT}, "model.encoders.picture: 'picture' is no stream"),
        ({"label_group": VIT}, "model.encoders.label_group: 'label_group' is a target, which no encoder reads"),
        ({"image": VIT, "image_view2": "imagee"}, "'imagee' is no stream with an encoder of its own. Did you mean 'image'"),
        ({"image": "image"}, "no stream with an encoder of its own"),
        ({"image": {"name": "vitt"}}, "'vitt' is not among the encoders. Did you mean 'vit'"),
        ({"image": {**VIT, "pach": 4}}, "model.encoders.image.pach is unknown. Did you mean 'patch'"),
        ({"text": {"name": "text_transformer"}}, "model.encoders.text.vocab is missing"),
    ],
)
def test_errors(encoders, message):
    with pytest.raises(ConfigError, match=message):
        Aligner(encoders)
