"""The watch's windows and splits, against the package's own file."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mmjax.config import ConfigError, DataError
from mmjax.data.sources import watch
from mmjax.data.sources.watch import EXERCISES, SPLITS, Watch, recordings, subjects


@pytest.fixture(scope="module")
def original():
    path = Path(importlib.util.find_spec("seglearn").origin).parent / "data" / "watch_dataset.npy"
    return np.load(path, allow_pickle=True).item()


@pytest.fixture(scope="module")
def splits():
    return {split: Watch(split) for split in SPLITS}


def test_every_fold_shares_out_the_subjects_and_each_is_tested_once():
    for fold in range(5):
        assert [len(m) for m in subjects(fold).values()] == [6, 2, 2]
        assert sorted(sum(subjects(fold).values(), ())) == list(range(1, 11))
    assert sorted(s for fold in range(5) for s in subjects(fold)["test"]) == list(range(1, 11))


@pytest.mark.parametrize("fold", [0, 4])
def test_no_subject_is_in_two_splits(fold):
    for split, wanted in subjects(fold).items():
        source = Watch(split, stride=4.0, fold=fold)
        assert sorted({source[i]["subject"] for i in range(len(source))}) == sorted(wanted)


def test_a_window_is_what_the_file_has_there(original, splits):
    for split, source in splits.items():
        for i in (0, len(source) // 2, len(source) - 1):
            row = source[i]
            place, start = divmod(row["key"], 10_000)
            wanted = original["X"][place][start : start + 200].astype(np.float32)
            assert original["X_labels"] == ["ax", "ay", "az", "wx", "wy", "wz"]
            np.testing.assert_array_equal(row["series_accelerometer"], wanted[:, :3])
            np.testing.assert_array_equal(row["series_gyroscope"], wanted[:, 3:])
            assert row["label"] == EXERCISES[original["y_labels"][original["y"][place]]]
            assert row["label_side"] == ("left", "right")[int(original["side"][place])]
            assert row["subject"] == original["subject"][place] and row["subject"] in subjects(0)[split]
            np.testing.assert_allclose(row["time"], np.arange(start, start + 200) / 50, atol=1e-5)


def test_the_unit_of_acceleration_is_that_of_gravity():
    assert 0.95 < np.median(np.linalg.norm(np.concatenate([r.values[:, :3] for r in recordings()]), axis=1)) < 1.1


def test_training_windows_overlap_and_no_moment_is_in_two_items_of_the_others(splits):
    starts = {split: np.array([source[i]["key"] for i in range(len(source))]) for split, source in splits.items()}
    gaps = {split: np.diff(keys)[np.diff(keys // 10_000) == 0] for split, keys in starts.items()}
    assert set(gaps["train"]) == {50} and set(gaps["validation"]) == set(gaps["test"]) == {200}
    keys = np.concatenate(list(starts.values()))
    assert len(set(keys)) == len(keys)
    assert [len(splits[s]) for s in SPLITS] == [2_808, 144, 273], "the same on every machine"


def test_windows_cannot_be_changed_in_place(splits):
    with pytest.raises(ValueError, match="read-only"):
        splits["test"][0]["series_gyroscope"][:] = 0


def test_about_itself(splits):
    about = splits["test"].describe()
    assert "BSD" in about["attribution"] and "1802.01489" in about["attribution"]
    assert [row[2] for row in about["splits"].rows] == [84, 28, 28] and "no subject is in two splits" in about["splits"].note
    assert sum(row[3] for row in about["splits"].rows) == pytest.approx(81.4, abs=0.2)
    assert sum(count for _, count in about["classes"].rows) == len(splits["test"])
    others = [Watch("test", seconds=5.0), Watch("test", fold=1), splits["train"], Watch("train", stride=2.0)]
    assert len({s.fingerprint for s in (splits["test"], *others)}) == 5
    assert Watch("test").fingerprint == splits["test"].fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tset"}, "no split 'tset': take one of train"),
        ({"fold": 5}, "fold=5 should be a whole number from 0 to 4"),
        ({"seconds": 20.0}, r"seconds=20 should be from 0.02 to 18.94, the shortest recording"),
        ({"seconds": 0.0}, "seconds=0 should be"),
        ({"stride": 0.0}, "stride=0 at least 0.02"),
    ],
)
def test_mistakes_are_one_message(options, message):
    with pytest.raises(ConfigError, match=message):
        Watch(**{"split": "train", **options})


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A package that stands in for the installed one."""

    class Spec:
        origin = str(tmp_path / "__init__.py")

    (tmp_path / "data").mkdir()
    recordings.cache_clear()
    monkeypatch.setattr(watch.importlib.util, "find_spec", lambda name: Spec)
    yield tmp_path / "data" / "watch_dataset.npy"
    recordings.cache_clear()


def test_a_package_that_is_not_there_says_how_to_install_it(elsewhere, monkeypatch):
    monkeypatch.setattr(watch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install seglearn==1.2.5"):
        Watch("train")


def test_a_file_that_is_not_there_or_holds_something_else_says_how_to_mend_it(elsewhere):
    with pytest.raises(DataError, match="watch_dataset.npy cannot be read .*No such file.*--force-reinstall seglearn"):
        Watch("train")
    np.save(elsewhere, {"X": []}, allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read .'y'.*--force-reinstall"):
        Watch("train")
