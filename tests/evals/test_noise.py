"""Curves over corruptions: level 0 is the clean score, the rest what the model says of corrupted data, and areas are MultiBench's."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config import ConfigError
from mmjax.contract import Lines, State, Table
from mmjax.data.loader import Data
from mmjax.data.split import SplitView
from mmjax.evals.classification import Classification
from mmjax.evals.noise import Noise
from mmjax.ops.robustness import effective_robustness, relative_robustness
from mmjax.train.sharding import make_mesh
from mmjax.train.step import make_functions

STATE = State(jnp.int32(0), {"model": {}}, {}, {}, {}, (), {}, jax.random.key(0))


class Colour:
    """Answers with the channel that is brightest on the mean; a text tells it nothing."""

    def init(self, key, batch):
        return {"params": {}}

    def apply(self, variables, batch, *, train):
        return {"label/logits": batch["image"].mean(axis=(1, 2))}, {}


@pytest.fixture(scope="module")
def view():
    pp = {"image": "decode", "text": 'choose("en", aliases=False)|tokens(40)', "label": "index()"}
    return SplitView(Data({"name": "toy:Labelled"}, pp, batch_size=8, cache=True), make_mesh(), "test")


def run(evaluator, view, model=None):
    evaluator.check(view)
    with jax.set_mesh(view.mesh):
        return dict(evaluator.run(make_functions(model or Colour(), {}), STATE, view, step=1, details=True))


def test_level_0_is_the_clean_score_and_the_others_that_of_corrupted_data(view):
    """Where all of a picture is covered, all channels are equal and the first is the answer."""
    clean = run(Classification(alone=False), view)["accuracy"]
    found = run(Noise(corruptions={"image": {"occlude": [0.3, 1.0], "jpeg": [100]}, "text": {"typos": [0.5]}}), view)
    curve = [found[f"accuracy/image/occlude/{level}"] for level in range(3)]
    first = np.mean([view.data.source("test")[i]["label"] == 0 for i in range(20)])
    assert curve[0] == clean > curve[2] == pytest.approx(first)
    assert found["accuracy/image/jpeg/1"] == found["accuracy/text/typos/1"] == clean  # nothing was changed; or nothing that is looked at
    assert found["accuracy/image/occlude/relative"] == pytest.approx((curve[0] + 2 * curve[1] + curve[2]) / 4)
    assert found["accuracy/image/relative"] == pytest.approx((found["accuracy/image/occlude/relative"] + clean) / 2)
    assert found["accuracy/image/occlude/2/chance"] == pytest.approx(1 / 3) and "accuracy/image/occlude/0/majority" in found
    assert isinstance(found["image"], Lines) and found["image"].series["occlude"] == curve
    assert isinstance(found["image_severities"], Table) and found["image_severities"].rows[0] == ["occlude", "0.3", "1"]
    assert not any("occlude" in str(name) for name in view.data._examples)  # the corrupted pictures are not kept in memory


class Brightness(Colour):
    """Says how bright a picture is."""

    def apply(self, variables, batch, *, train):
        return {"value/prediction": batch["image"].mean(axis=(1, 2, 3))}, {}


def test_a_number_is_measured_by_its_error():
    pp = {"image": "decode", "value": "number()"}
    view = SplitView(Data({"name": "toy:Labelled"}, pp, batch_size=8), make_mesh(), "test")
    found = run(Noise("value", corruptions={"image": {"occlude": [1.0]}}), view, Brightness())
    assert found["mae/image/occlude/0/mean"] > 0 and found["mae/image/occlude/1"] != found["mae/image/occlude/0"]


def test_the_usual_corruptions_of_each_kind(view):
    found = run(Noise(), view)
    assert {name.split("/")[2] for name in found if name.startswith("accuracy/image/")} == {
        "blur",
        "pixel_noise",
        "occlude",
        "jpeg",
        "relative",
    }
    assert found["accuracy/image/blur/5"] == found["accuracy/image/blur/0"]  # of one colour
    only = run(Noise(corruptions={"image": {}, "text": {"lose_words": [0.1]}}), view)
    assert {name.split("/")[1] for name in only if name.startswith("accuracy/")} == {"text"}


@pytest.mark.parametrize(
    ("corruptions", "said"),
    [
        ({"images": {}}, "corruptions.images: the run reads no such modality. Did you mean 'image'"),
        ({"text": {"typo": [0.1]}}, "'typo' is no operation on text. Did you mean 'typos'"),
        ({"image": {"occlude": [2]}}, "should be from 0 to 1"),
    ],
)
def test_what_is_wrong_is_said_before_training(view, corruptions, said):
    with pytest.raises(ConfigError, match=said):
        Noise(corruptions=corruptions).check(view)


def test_areas_are_multibenchs():
    """Its code's over its eleven levels: trapezoids 0.1 wide; and the sum of what lies above late fusion's shifted curve, times 0.1."""
    rng = np.random.default_rng(0)
    f, late = np.sort(rng.random(11))[::-1], np.sort(rng.random(11))[::-1]
    assert relative_robustness(f) == pytest.approx(sum((a + b) * 0.1 / 2 for a, b in pairwise(f)))
    above = f - (late + f[0] - late[0])
    assert effective_robustness(f, late) == pytest.approx(sum(above) * 0.1) and effective_robustness(f, f) == 0
    assert relative_robustness(np.array([0.7])) == 0.7
