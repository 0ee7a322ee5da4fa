"""Classification and regression of a made-up model: what counts, what stands beside, one modality alone, pictures, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from mmjax.config import ConfigError, DataError
from mmjax.contract import Matrix, State, Table, save_artifact
from mmjax.data.loader import Data
from mmjax.data.split import SplitView
from mmjax.evals.classification import Classification
from mmjax.evals.regression import Regression
from mmjax.train.sharding import make_mesh
from toy import Toy, toy_config

STATE = State(jnp.int32(0), {}, {}, {}, {}, (), {}, jax.random.key(0))  # what is made up looks at none of it
NAMES = ("ant", "bee", "cow", "doe")
RNG = np.random.default_rng(0)
SIZES = {"train": 40, "validation": 20, "test": 30}
LABELS = {split: RNG.choice(4, n, p=[0.5, 0.2, 0.2, 0.1]).tolist() for split, n in SIZES.items()}
TAGS = {split: RNG.random((n, 4)) < 0.4 for split, n in SIZES.items()}
VALUES = {split: RNG.normal(size=n) + 1 for split, n in SIZES.items()}
PEOPLE = [None if i == 4 else ("ann/a", b"bob", 10, 9)[i % 4] for i in range(40)]
NOISE = RNG.normal(size=(SIZES["test"], 4)).astype(np.float32)


class Targets(Toy):
    """Toy with every kind of target, and of whom; the example 0 has none, the example 1 no image, nobody is said for 4."""

    def __init__(self, split):
        super().__init__(split, size=SIZES[split])
        self.classes = {"label": NAMES, "tags": NAMES}

    def __getitem__(self, index):
        row = super().__getitem__(index)
        row["person"] = PEOPLE[index]
        if index == 1:
            row["image"] = None
        if index:
            tags = [NAMES[c] for c in np.flatnonzero(TAGS[self.split][index])]
            row |= {"label": LABELS[self.split][index], "tags": tags, "value": VALUES[self.split][index]}
        return row


class Made:
    """A model whose outputs are by key, and zero where the image is absent."""

    def __init__(self, outputs):
        self.by_key, self.replicated, self.kept = outputs, lambda x: x, None

    def outputs(self, state, batch, names):
        found = self.by_key[np.asarray(batch["text/key"])]
        here = np.asarray(batch["image/present"]).reshape(-1, *(1,) * (found.ndim - 1))
        return {names[0]: jnp.asarray(np.where(here, found, 0))}


def view(split="test"):
    config = toy_config(data__source={"name": f"{__name__}:Targets"})
    return SplitView(Data(**config["data"]), make_mesh(), split)


def run(evaluator, outputs, details=True, split="test"):
    return dict(evaluator.run(Made(outputs), STATE, view(split), step=0, details=details))


COUNTED = np.arange(1, SIZES["test"])  # the example 0 has no target
SEEN = np.array(LABELS["train"])[1:]
LOGITS = NOISE + 2 * np.eye(4, dtype=np.float32)[LABELS["test"]]
WITHOUT = np.where(np.arange(30)[:, None] == 1, 0, LOGITS)  # what the model is without an image


def test_classes():
    found, y = run(Classification(), LOGITS), np.array(LABELS["test"])[COUNTED]
    taken = WITHOUT[COUNTED].argmax(axis=1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, taken))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(y, taken, average="macro"))
    assert found["accuracy/chance"] == 0.25 and found["auroc/majority"] == 0.5
    assert found["accuracy/majority"] == pytest.approx(np.mean(y == np.bincount(SEEN).argmax()))
    assert found["accuracy/only_image"] == found["accuracy"], "this model looks at the image alone"
    assert found["accuracy/only_text"] == pytest.approx(np.mean(y == 0)), "which without it says nothing, over the same examples"
    assert {name for name in run(Classification(), LOGITS, details=False) if "only" in name} == set()
    table, picture = found["classes"], found["confusion"]
    assert isinstance(table, Table) and isinstance(picture, Matrix) and picture.rows == list(NAMES)
    share = metrics.confusion_matrix(y, taken, labels=range(4), normalize="true")
    np.testing.assert_allclose(picture.values, share)
    row = next(row for row in table.rows if row[0] == "ant")
    assert row[1] == (y == 0).sum() and row[4] == pytest.approx(metrics.f1_score(y == 0, taken == 0))


def test_ordered_classes():
    logits = np.sort(NOISE[:, :3], axis=1)[:, ::-1]
    found, y = run(Classification(ordinal=True), logits), np.array(LABELS["test"])[COUNTED]
    answered = (np.where(np.arange(30)[:, None] == 1, 0, logits) > 0).sum(axis=1)[COUNTED]
    assert found["mae"] == pytest.approx(np.abs(answered - y).mean()) and found["accuracy"] == pytest.approx(np.mean(answered == y))
    median = int(sum((k < SEEN).mean() > 0.5 for k in range(3)))
    assert found["mae/majority"] == pytest.approx(np.abs(median - y).mean()) and found["accuracy/chance"] == 0.25


def test_tags():
    found, y = run(Classification("tags"), NOISE), TAGS["test"][COUNTED]
    scores = np.where(np.arange(30)[:, None] == 1, 0, NOISE)[COUNTED]
    assert found["f1_micro"] == pytest.approx(metrics.f1_score(y, scores > 0, average="micro"))
    assert found["map"] == pytest.approx(np.mean([metrics.average_precision_score(y[:, c], scores[:, c]) for c in range(4)]))
    assert found["map/majority"] == pytest.approx(y.mean()) and "confusion" not in found


def test_numbers():
    predicted = (VALUES["test"] + 0.5 * NOISE[:, 0]).astype(np.float32)
    found, y = run(Regression(), predicted), VALUES["test"][COUNTED]
    x = np.where(np.arange(30) == 1, 0, predicted)[COUNTED]
    assert found["mae"] == pytest.approx(np.abs(x - y).mean(), rel=1e-5)
    assert found["mae/mean"] == pytest.approx(np.abs(VALUES["train"][1:].mean() - y).mean(), rel=1e-5)
    assert found["mae/only_text"] == pytest.approx(np.abs(y).mean(), rel=1e-5) and found["pearson/mean"] == 0


@pytest.mark.parametrize("evaluator", [Classification(by="person"), Regression(by="person")], ids=["label", "value"])
def test_by_group(evaluator):
    label = isinstance(evaluator, Classification)
    figure, outputs = ("accuracy", LOGITS) if label else ("mae", NOISE[:, 0])
    found = run(evaluator, outputs)
    said = np.where(np.arange(30).reshape(-1, *(1,) * (outputs.ndim - 1)) == 1, 0, outputs)
    score = said.argmax(axis=1) == LABELS["test"] if label else np.abs(said - VALUES["test"])
    groups = {"9": range(3, 30, 4), "10": range(2, 30, 4), "ann|a": range(8, 30, 4), "bob": range(1, 30, 4)}
    for name, rows in groups.items():
        assert found[f"{figure}/by/{name}"] == pytest.approx(score[list(rows)].mean(), rel=1e-5)
        assert found[f"{figure}/by/{name}/n"] == len(rows)
    assert found[f"{figure}/by/mean"] == pytest.approx(np.mean([score[list(rows)].mean() for rows in groups.values()]), rel=1e-5)
    assert found["by_person"].labels == ["9 (7)", "10 (7)", "ann|a (6)", "bob (8)"]
    assert found["by_person"].series[figure] == [found[f"{figure}/by/{name}"] for name in groups]
    assert not [name for name in run(evaluator, outputs, details=False) if "/by/" in name]


def test_groups_that_are_none():
    for by, message in (("persn", "no such field. Did you mean 'person'"), ("text", "examples have dict there")):
        with pytest.raises(ConfigError, match=f"by='{by}': .*{message}"):
            Classification(by=by).check(view())
    Classification(by="person").check(view())


def test_predictions_are_kept_with_the_places_and_groups_of_their_examples(tmp_path):
    found = run(Classification(by="person", save=True), LOGITS)["predictions"]
    save_artifact(tmp_path / "predictions.json", found)
    with np.load(tmp_path / "predictions.npz") as kept:
        assert sorted(kept) == ["group", "outputs", "rows", "targets"]
        np.testing.assert_array_equal(kept["rows"], COUNTED)
        np.testing.assert_allclose(kept["outputs"], WITHOUT[COUNTED])
        np.testing.assert_array_equal(kept["targets"], np.array(LABELS["test"])[COUNTED])
        assert kept["group"][:5].tolist() == ["bob", "10", "9", "", "bob"]
    assert "predictions" not in run(Classification(), LOGITS)


def test_errors():
    with pytest.raises(ConfigError, match="target='lable' should be a 'label'"):
        Classification("lable")
    with pytest.raises(ConfigError, match="target='label' should be a 'value'"):
        Regression("label")
    with pytest.raises(ConfigError, match="ordinal=True is for labels"):
        Classification("tags", ordinal=True)
    with pytest.raises(DataError, match="label/logits is not finite on the test split"):
        run(Classification(), LOGITS * np.nan)
