"""The fuser: kinds of heads, decisions, shared and frozen parts, losses that parts bring, what is absent, errors."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.models.fuser import Fuser
from mmjax.ops.masks import presence, zero_absent

VIT = {"name": "vit", "patch": 4, "width": 8, "depth": 1, "heads": 2}
TEXT = {"name": "text_transformer", "vocab": 11, "width": 12, "depth": 1, "heads": 2}
HEADS = {
    "label": {"size": 3},
    "label_grade": {"size": 4, "kind": "ordinal"},
    "tags": {"size": 5},
    "value": {"size": 1},
    "value_pose": {"size": 2},
}
RNG = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(RNG.uniform(-1, 1, (4, 8, 8, 3)), jnp.float32),
    "text": jnp.asarray(RNG.integers(0, 11, (4, 5)), jnp.int32),
    "text/valid": jnp.asarray(np.arange(5) < np.array([5, 2, 3, 1])[:, None]),
    "image/present": jnp.array([True, True, False, False]),
    "text/present": jnp.array([True, False, True, False]),
    "label": jnp.zeros(4, jnp.int32),
}


class MeanOfLogits(nn.Module):
    """Decides by the mean of what the modalities decide, and brings their variance as a loss."""

    decision_level = True

    @nn.compact
    def __call__(self, encodings, *, train):
        here = presence(encodings)
        pooled = jnp.stack([e.pooled for e in zero_absent(encodings).values()], axis=1)
        count = jnp.maximum(here.sum(axis=1), 1)[:, None].astype(jnp.float32)
        mean = pooled.sum(axis=1) / count
        return Encoding.from_pooled(mean, here.any(axis=1))._replace(aux={"variance": pooled.var(axis=(1, 2))})


class Pair(MeanOfLogits):
    counts = (2,)


@cache
def fused(fusion="concat", heads=("label", "label_grade", "tags", "value", "value_pose")):
    model = Fuser({"image": VIT, "text": TEXT}, {"name": fusion}, {target: HEADS[target] for target in heads})
    variables = checks.drawn(model.module, BATCH, train=False)
    return model, variables, checks.quick(lambda v, batch: model.apply(v, batch, train=False)[0])


def test_every_kind_of_target_has_its_output():
    _, variables, run = fused()
    outputs = run(variables, BATCH)
    shapes = {name: outputs[name].shape for name in outputs if name.split("/")[0] in HEADS}
    assert shapes == {
        "label/logits": (4, 3),
        "label_grade/logits": (4, 3),
        "tags/logits": (4, 5),
        "value/prediction": (4,),
        "value_pose/prediction": (4, 2),
    }
    assert outputs["fused/pooled"].shape == (4, 256) and (outputs["fused/pooled"][3] == 0).all()
    assert {"image", "text", "fusion", "head_label", "head_value_pose"} <= set(variables["params"]), "parts to load and to freeze"
    kernel, thresholds = (variables["params"]["head_label_grade"][k] for k in ("dense", "thresholds"))
    wanted = outputs["fused/pooled"] @ kernel["kernel"] + thresholds
    np.testing.assert_allclose(outputs["label_grade/logits"], wanted, atol=1e-5)


def test_absent_content_changes_neither_outputs_nor_gradients():
    model, variables, _ = fused()

    @checks.quick
    @jax.value_and_grad
    def run(variables, batch):
        outputs, _ = model.apply(variables, batch, train=True)
        return outputs["label/logits"][:, 0].sum() + outputs["value/prediction"].sum()

    dirty = {**BATCH, "image": BATCH["image"].at[2:].set(jnp.nan), "text": BATCH["text"].at[jnp.array([1, 3])].set(10**6)}
    checks.assert_same(run(variables, dirty), run(variables, BATCH), "With something else in absent rows")


def test_decisions_are_of_a_head_a_modality_and_bring_losses():
    _, variables, run = fused(f"{__name__}:MeanOfLogits", ("label", "value"))
    outputs = run(variables, BATCH)
    params = variables["params"]
    assert set(params) == {"image", "text", "head_label_image", "head_label_text", "head_value_image", "head_value_text"}

    def by_hand(m):
        dense = params[f"head_label_{m}"]["dense"]
        return outputs[f"{m}/pooled"] @ dense["kernel"] + dense["bias"][None]

    image, text = by_hand("image"), by_hand("text")
    wanted = [(image[0] + text[0]) / 2, image[1], text[2], jnp.zeros(3)]
    np.testing.assert_allclose(outputs["label/logits"], jnp.stack(wanted), atol=1e-5)
    assert outputs["value/prediction"].shape == (4,) and outputs["fused/pooled"].shape == (4, 4)
    assert {name for name in outputs if name.startswith("aux/")} == {"aux/variance_label", "aux/variance_value"}
    assert outputs["aux/variance_label"].shape == (4,) and outputs["aux/variance_label"][3] == 0


@pytest.mark.parametrize("fusion", [{"name": "bottleneck", "stage": 0}, {"name": "dense", "levels": 2}, {"name": "decision"}])
def test_fusions_of_stages_and_of_decisions(fusion):
    model = Fuser({"image": VIT, "text": TEXT}, fusion, {"label": {"size": 3}})
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), BATCH))
    outputs, _ = jax.eval_shape(lambda v: model.apply(v, BATCH, train=False), variables)
    assert outputs["label/logits"].shape == (4, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": {"name": "conact"}}, "model.fusion.name: 'conact' is not among the fusion. Did you mean 'concat'"),
        ({"fusion": {"name": "concat", "widht": 3}}, "model.fusion.widht is unknown. Did you mean 'width'"),
        ({"fusion": {"name": f"{__name__}:Pair"}, "encoders": {"text": TEXT}}, "takes 2 modalities, and model.encoders has 1: text"),
        (
            {"fusion": {"name": "decision"}, "heads": {"tags": {"size": 3}}},
            "fits class heads; model.heads.tags is multilabel",
        ),
        ({"encoders": {}}, "needs at least one modality"),
        ({"encoders": {"label": VIT}}, "'label' is a target, which no encoder reads"),
        ({"heads": {}}, "model.heads names no target"),
        ({"heads": {"lable": {"size": 3}}}, "model.heads.lable: 'lable' is no target"),
        ({"heads": {"label": {"siez": 3}}}, "model.heads.label.siez is unknown. Did you mean 'size'"),
        ({"heads": {"label": {}}}, "model.heads.label.size is missing"),
        ({"heads": {"label": {"size": 1}}}, "model.heads.label.size=1 should be a whole number of at least 2"),
        ({"heads": {"tags": {"size": 3, "kind": "class"}}}, "model.heads.tags.kind='class' does not fit"),
    ],
)
def test_errors(changes, message):
    arguments = {"encoders": {"image": VIT, "text": TEXT}, "fusion": {"name": "concat"}, "heads": {"label": {"size": 3}}}
    with pytest.raises(ConfigError, match=message):
        Fuser(**{**arguments, **changes})


def test_a_stream_that_the_data_lack():
    model, *_ = fused()
    with pytest.raises(ConfigError, match="model.encoders.text: the data have no 'text'"):
        jax.eval_shape(model.init, jax.random.key(0), {"image": BATCH["image"]})
