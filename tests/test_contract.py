"""Names of streams, what is present, and artifacts on disk."""

import jax
import jax.numpy as jnp
import pytest

from mmjax import contract
from mmjax.contract import (
    Bars,
    Gallery,
    Intervals,
    Item,
    Lines,
    Matrix,
    Plane,
    Reliability,
    Scatter,
    Sheet,
    Table,
    load_artifact,
    save_artifact,
    write_atomic,
)


def test_streams_and_their_kinds():
    batch = {"image": 0, "image_depth": 0, "image/key": 0, "text_answer": 0, "label": 0, "_mask": 0, "imagery": 0}
    assert contract.streams(batch) == ["image", "image_depth", "text_answer"]
    assert contract.kind("text_answer") == "text"
    assert contract.kind("label") == contract.kind("label_group") == "label", "a target, which is no modality"
    with pytest.raises(ValueError, match="begins with one of image, text.*label"):
        contract.kind("imagery")


def test_the_mask_folds_into_every_presence():
    batch = {
        "image": jnp.zeros((3, 2)),
        "image/present": jnp.array([True, False, True]),
        "text": jnp.zeros((3, 2)),
        "_mask": jnp.array([True, True, False]),
    }
    assert contract.present(batch, "image").tolist() == [True, False, False]
    assert contract.present(batch, "text").tolist() == [True, True, False]
    assert contract.key(batch, "text").tolist() == [0, 1, 2]


def test_an_encoding_of_one_vector_and_a_key_for_every_name():
    encoding = contract.Encoding.from_pooled(jnp.ones((2, 3)), jnp.array([True, False]))
    assert encoding.tokens.shape == (2, 1, 3) and encoding.valid.tolist() == [[True], [False]]
    keys = {n: jax.random.key_data(contract.fold_name(jax.random.key(0), n)).tolist() for n in ("a", "b")}
    assert keys["a"] != keys["b"] and keys["a"] == [208555866, 2927674385], "the same in every process and version"


@pytest.mark.parametrize(
    "artifact",
    [
        Gallery([Item("text", "Ölkanne 油")], [[Item("image", b"\x89PNG", correct=True, score=0.5), Item("image", b"x", correct=False)]]),
        Sheet(["train 3"], [[Item("image", b"x", "draw 1"), Item("text", "a 油", pieces=[(1, "<begin>"), (7, "a")])]], "note"),
        Bars(["en", "ar"], {"r@10": [0.5, 0.25], "chance": [0.1, 0.1]}, "r@10"),
        Matrix([[1.0, 0.5], [0.25, 1.0]], ["a", "b"], ["c", "d"], "similarity"),
        Scatter([0.0, 1.5], [-1.0, 2.0], {"modality": ["image", "text"], "label": ["a 油", None]}, "note"),
        Gallery([Item("audio", b"ID3 clip")], [[Item("series", b"\x89PNG")]]),
        Table(["name", "count"], [["a", 3], ["b", 4]], "note"),
        Intervals(["a", "b 油"], [0.5, 0.25], [0.1, 0.0], "accuracy", 0.5),
        Lines({"a": [0.5, 0.25], "b": []}, "level", "accuracy"),
        Plane(["a"], [2.0], [0.5], "FLOPs", "accuracy", True),
        Reliability({"as it is": [[0.0, 0.5, 0, 0.0, 0.0], [0.5, 1.0, 3, 0.8, 0.6]]}, "note"),
    ],
    ids=lambda a: type(a).__name__,
)
def test_artifacts_come_back_as_they_were(artifact, tmp_path):
    save_artifact(tmp_path / "deep" / "a.json", artifact)
    assert load_artifact(tmp_path / "deep" / "a.json") == artifact


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomic(path, "old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["results.json"]
