"""Frozen encoders that run once: the same training as with encoders in every step, and what may not be encoded."""

import jax
import numpy as np
import pytest

from mmjax.config import ConfigError, DataError
from mmjax.data import stored
from mmjax.study.cost import cost
from mmjax.study.side_by_side import Run, SideBySide
from mmjax.train.build import parts_of
from toy import toy_config

FROZEN = {
    "data__pp__image": "decode",
    "optimizer__name": "sgd",
    "optimizer__rules": [("model/image/.*", {"freeze": True}), (".*", {})],
    "evals": {"retrieval": {"name": "retrieval", "baseline": None}},
    "data__modality_dropout": 0.2,
    "data__batch_pp": {"image": "normalise"},
    "data__source": {"name": "toy:Toy", "broken": [3]},
    "data__max_unreadable": 0.2,
    "steps": 4,
}


def trained(**changes):
    side = SideBySide(toy_config(**FROZEN, **changes))
    (state,) = side.train([Run(0)])
    return state, side.measure(state, {"retrieval": "test"}, details=False), side.parts


def test_a_run_on_encodings_is_the_run_on_pictures():
    """With an unreadable picture, whose row is left out of both, and presence that is drawn anew in each step."""
    (a, found, _), (b, encoded, parts) = trained(), trained(data__encoded=["image"])
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert found == pytest.approx(encoded, abs=1e-6)  # test pictures go through the encoder as ever
    with jax.set_mesh(parts.mesh):
        batch = next(parts.data.train_batches(parts.mesh))
    assert batch["image"].ndim == 3 and batch["image/pooled"].shape == (16, 16)  # tokens and the pooled vector


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__pp__image": "decode|flip_lr"}, "draws anew, by flip_lr"),
        ({"optimizer__rules": [(".*", {})]}, "its encoder is trained: freeze it by a rule for model/image/"),
        ({"data__encoded": ["imag"]}, "Did you mean 'image'"),
    ],
)
def test_what_cannot_be_encoded_once(changes, said):
    with pytest.raises(ConfigError, match=said):
        SideBySide(toy_config(**{**FROZEN, "data__encoded": ["image"], **changes})).train([Run(0)], 1)


def test_a_fusion_that_reads_lower_stages_needs_them():
    """On encodings `dense` would be another model, with fewer levels than the one that was made."""
    config = toy_config(**{**FROZEN, "data__encoded": ["image"], "evals": {}, "data__source": {"name": "toy:Labelled"}})
    config["data"]["pp"]["label"] = "index()"
    config["model"] = {
        "name": "fuser",
        "encoders": config["model"]["encoders"],
        "fusion": {"name": "dense", "width": 8},
        "heads": {"label": {"size": 3}},
    }
    config["objectives"] = {"label": {"name": "cross_entropy"}}
    with pytest.raises(ConfigError, match=r"keeps no lower stages .* \(fusion/"):
        SideBySide(config).train([Run(0)], 1)


def test_an_unreadable_picture_is_no_reason_to_leave_out_the_text_alone():
    """The rows that an evaluator of texts reads are as many with encodings as without."""
    _, _, parts = trained(data__encoded=["image"])
    with jax.set_mesh(parts.mesh):
        list(parts.data.eval_batches(parts.mesh, "test"))
        rows = [np.asarray(batch["_mask"]) for batch in parts.data.eval_batches(parts.mesh, "test", {"text": parts.data.pp["text"]})]
    assert np.concatenate(rows).sum() == 20


def test_what_is_encoded_once_costs_no_step_anything():
    """So that budgets of equal operations are those of the steps that are run."""
    whole, encoded = (cost(parts_of(toy_config(**{**FROZEN, "data__encoded": e}))) for e in ([], ["image"]))
    assert encoded["step_flops"] < whole["step_flops"] and encoded["parameters"] == whole["parameters"]


def batches_of(**changes):
    """What the training split is read as, and the data."""
    parts = parts_of(toy_config(**FROZEN, data__encoded=["image"], **changes))
    with jax.set_mesh(parts.mesh):
        state = parts.init(parts.state_shapes(), next(parts.data.train_batches(parts.mesh)))
        parts.encode(state)
        return jax.device_get(list(parts.data.eval_batches(parts.mesh, "train"))), parts.data


def test_encodings_are_stored_for_other_runs_and_made_again_for_others(tmp_path):
    """Bit for bit, the unreadable picture included; another encoder or other operations have files of their own."""
    wanted, data = batches_of(data__encoded_in=str(tmp_path))
    (file,) = tmp_path.iterdir()
    time = file.stat().st_mtime_ns
    found, again = batches_of(data__encoded_in=str(tmp_path))
    assert [*tmp_path.iterdir()] == [file] and file.stat().st_mtime_ns == time, "nothing was made again"
    for a, b in zip(wanted, found, strict=True):
        assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    assert data.unreadable == again.unreadable and sum(again.unreadable.values()) == 1
    batches_of(data__encoded_in=str(tmp_path), model__encoders__image__width=8)
    assert len([*tmp_path.iterdir()]) == 2


def test_stored_encodings_are_whole_or_said_not_to_be(tmp_path):
    place = tmp_path / "image_train_0.safetensors"
    assert stored.load(place) is None
    arrays = {"image": np.ones((2, 3), jax.numpy.bfloat16), "image/valid": np.array([[True], [False]])}
    stored.save(place, arrays, {7: "no image"})
    found = stored.load(place)
    assert found is not None
    assert found.unreadable == {7: "no image"} and {k: v.dtype for k, v in found.arrays.items()} == {k: v.dtype for k, v in arrays.items()}
    place.write_bytes(place.read_bytes()[:100])
    with pytest.raises(DataError, match=r"image_train_0.safetensors cannot be read .*Delete the file"):
        stored.load(place)
    with pytest.raises(DataError, match=r"cannot be stored in .*image_train_0.safetensors: File exists"):
        stored.save(place / "file", arrays, {})
