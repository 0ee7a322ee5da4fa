"""Data sets in tfds' own format, written here with real photographs inside and read back without TensorFlow."""

import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
import sklearn.datasets

from mmjax.config import ConfigError, DataError
from mmjax.data.loader import Data
from mmjax.data.sources.tfds import Tfds
from mmjax.train.sharding import make_mesh

STREAMS = {"image": "image", "text": "captions/text"}
COUNTS = {"train": 20, "val": 10}


def photographs():
    """Squares cut from the two photographs that scikit-learn carries, as JPEG."""
    folder = Path(sklearn.datasets.__file__).parent / "images"
    whole = [cv2.imread(str(folder / name)) for name in ("china.jpg", "flower.jpg")]
    tiles = [image[y : y + 96, x : x + 96] for y in range(0, 288, 96) for x in range(0, 480, 96) for image in whole]
    return [cv2.imencode(".jpg", tile)[1].tobytes() for tile in tiles]


PHOTOGRAPHS = photographs()


def captions_of(split, i):
    return [f"{split} photograph {i}, légende {j}" for j in range(i % 6)]


@pytest.fixture(scope="session")
def builder_class():
    import tensorflow_datasets as tfds

    F = tfds.features

    class PhotoCaptions(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")
        lists_of_lists = True
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name, description=name) for name in ("small", "large")]

        def _info(self):
            features = {
                "image": F.Image(),
                "image/id": np.int64,
                "image/filename": F.Text(),
                "captions": F.Sequence({"id": np.int64, "text": F.Text()}),
                "label": F.ClassLabel(names=["china", "flower"]),
                "objects": F.Sequence({"label": F.ClassLabel(names=["a", "b", "c"]), "bbox": F.BBoxFeature()}),
                "sensor": F.Tensor(shape=(None, 3), dtype=np.float32, encoding=F.Encoding.BYTES),
                "age": np.float32,
                "more": {"frames": F.Sequence(F.Image()), "title": F.Text()},
            }
            if self.lists_of_lists:  # as tfds lays them out; to write them itself it needs TensorFlow
                features["refs/words/ragged_flat_values"] = F.Sequence(F.Text())
                features["refs/words/ragged_row_lengths_0"] = F.Sequence(np.int64)
            return tfds.core.DatasetInfo(
                builder=self,
                features=F.FeaturesDict(features),
                description="Two photographs in pieces.",
                homepage="https://scikit-learn.org",
                citation="@misc{photographs}",
            )

        def _split_generators(self, dl_manager):
            return {name: self._generate_examples(name, count) for name, count in COUNTS.items()}

        def _generate_examples(self, split, count):
            for i in range(count):
                example = {
                    "image": io.BytesIO(PHOTOGRAPHS[i]),
                    "image/id": 10**12 + i // 2,
                    "image/filename": f"{i:03}.jpg",
                    "captions": [{"id": j, "text": text} for j, text in enumerate(captions_of(split, i))],
                    "label": -1 if i == 3 else i % 2,
                    "objects": [{"label": j, "bbox": F.BBox(0.0, 0.25, 0.5, 1.0)} for j in range(i % 4)],
                    "sensor": np.full((i, 3), i, np.float32),
                    "age": i / 2,
                    "more": {"frames": [io.BytesIO(PHOTOGRAPHS[i + j]) for j in range(i % 3)], "title": "Fräulein"},
                }
                if self.lists_of_lists:
                    example["refs/words/ragged_flat_values"] = ["one", "two", "three"]
                    example["refs/words/ragged_row_lengths_0"] = [2, 1]
                yield i, example

    return PhotoCaptions


def write(builder, folder):
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP, num_shards=2)
    builder(data_dir=folder, config="small").download_and_prepare(file_format="array_record", download_config=config)


@pytest.fixture(scope="session")
def data_dir(builder_class, tmp_path_factory):
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    write(builder_class, folder)
    version = folder / "photo_captions" / "small" / "1.2.0"
    features = {name: feature for name, feature in builder_class(data_dir=folder, config="small").info.features.items()}
    features = {name: feature for name, feature in features.items() if not name.startswith("refs")}
    nested = {"refs": tfds.features.Sequence({"words": tfds.features.Sequence(tfds.features.Text())})}
    tfds.features.FeaturesDict({**features, **nested}).save_config(version)
    return str(folder)


def opened(data_dir, split="train", **options):
    return Tfds(split, **{"dataset": "photo_captions", "streams": STREAMS, "data_dir": str(data_dir), **options})


def by_name(source):
    """Examples by their place in the builder: tfds shuffles what it writes."""
    return {int(example["text_name"][:3]): example for example in (source[i] for i in range(len(source)))}


@pytest.fixture(scope="module")
def examples(data_dir):
    streams = {
        **STREAMS,
        "text_name": "image/filename",
        "text_label": "label",
        "text_title": "more/title",
        "text_words": "refs/words",
        "label": "label",
        "label_objects": "objects/label",
        "boxes": "objects/bbox",
        "series": "sensor",
        "tabular": "age",
        "video": "more/frames",
    }
    return by_name(opened(data_dir, streams=streams))


def test_images_stay_the_bytes_they_were(examples):
    assert sorted(examples) == list(range(20))
    for i, example in examples.items():
        assert example["image"] == PHOTOGRAPHS[i]
        assert example["video"] == PHOTOGRAPHS[i : i + i % 3]


def test_texts_are_strings_and_lists_of_them(examples):
    for i, example in examples.items():
        assert example["text"] == captions_of("train", i)
        assert example["text_title"] == "Fräulein" and example["text_words"] == ["one", "two", "three"]


def test_labels_are_ints_with_names_and_a_text_of_a_label_is_its_name(examples, data_dir):
    assert [examples[i]["label"] for i in range(5)] == [0, 1, 0, None, 0]  # -1 is tfds' "unknown"
    assert [examples[i]["text_label"] for i in range(4)] == ["china", "flower", "china", None]
    assert type(examples[0]["label"]) is int
    np.testing.assert_array_equal(examples[7]["label_objects"], [0, 1, 2])
    source = opened(data_dir, streams={"label": "label", "label_objects": "objects/label", "text": "label"})
    assert source.classes == {"label": ["china", "flower"], "label_objects": ["a", "b", "c"]}
    assert opened(data_dir).classes == {}


def test_numbers_are_numpy_of_their_type_and_shape(examples):
    for i, example in examples.items():
        assert example["tabular"].dtype == np.float32 and example["tabular"] == i / 2
        assert example["series"].dtype == np.float32 and example["series"].shape == (i, 3) and (example["series"] == i).all()
        np.testing.assert_array_equal(example["boxes"], np.tile(np.float32([0, 0.25, 0.5, 1]), (i % 4, 1)))


def test_splits_and_slices_in_tfds_syntax(data_dir):
    names = {"text_name": "image/filename"}
    sizes = {"train": 20, "val": 10, "train[:25%]": 5, "train[15:]+val[:3]": 8, "all": 30}
    assert {split: len(opened(data_dir, split)) for split in sizes} == sizes
    splits = {"train": "train[:80%]", "validation": "train[80%:]", "test": "val"}
    parts = [by_name(opened(data_dir, split, splits=splits, streams=names)) for split in splits]
    assert sorted([*parts[0], *parts[1]]) == list(range(20)) and sorted(parts[2]) == list(range(10))
    assert len(opened(data_dir, "val[:2]", splits=splits)) == 2  # what `splits` does not name is tfds' own


def test_keys(data_dir):
    source = opened(data_dir)
    assert [source[i]["key"] for i in range(len(source))] == list(range(20))
    shared = by_name(opened(data_dir, key="image/id", streams={"text_name": "image/filename"}))
    keys = [shared[i]["key"] for i in range(20)]
    assert keys[::2] == keys[1::2] and len(set(keys)) == 10  # two of an id
    assert all(type(key) is int and 0 <= key < 2**31 for key in keys)
    assert keys[0] == 170_926_000  # the same on every day
    named = by_name(opened(data_dir, key="image/filename", streams={"text_name": "image/filename"}))
    assert len({example["key"] for example in named.values()}) == 20


@pytest.mark.parametrize("name", ["photo_captions/small", "photo_captions:1.2.0", "photo_captions/small:1.*.*"])
def test_names_as_tfds_writes_them(data_dir, name):
    assert len(opened(data_dir, dataset=name)) == 20


def test_the_fingerprint_follows_data_split_and_features(data_dir, tmp_path):
    print_ = opened(data_dir).fingerprint
    assert print_ == opened(data_dir).fingerprint and "photo_captions/small/1.2.0" in print_
    others = [
        opened(data_dir, "val"),
        opened(data_dir, "train[:19]"),
        opened(data_dir, streams={"image": "image"}),
        opened(data_dir, key="image/id"),
    ]
    folder = copy_of(data_dir, tmp_path)
    info = folder / "dataset_info.json"
    content = json.loads(info.read_text())
    content["splits"][0]["numBytes"] = "77"  # made again, of the same version but of other examples
    info.write_text(json.dumps(content))
    assert len({print_, opened(tmp_path).fingerprint, *(source.fingerprint for source in others)}) == 6
    assert opened(data_dir, splits={"validation": "val"}).fingerprint == print_


def test_describe(data_dir):
    about = opened(data_dir, splits={"validation": "val", "test": "train[:5]"}).describe()
    assert "photo_captions/small/1.2.0" in about["attribution"] and "@misc{photographs}" in about["attribution"]
    assert "https://scikit-learn.org" in about["attribution"] and about["description"] == "Two photographs in pieces."
    assert [row[:2] for row in about["splits"].rows] == [["train", 20], ["val", 10]]
    assert "validation: val; test: train[:5]" in about["splits"].note
    assert about["streams"].rows == [["image", "image", "Image"], ["text", "captions/text", "list of Text"]]


def test_threads_read_what_one_reader_reads(data_dir):
    source = opened(data_dir)
    order = np.random.default_rng(0).integers(0, 20, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.__getitem__, order)) == [source[i] for i in order]
    assert source[-1] == source[19]
    with pytest.raises(IndexError, match="20 is outside a split of 20 examples"):
        source[20]


def test_batches(data_dir):
    source = {"name": "tfds", "dataset": "photo_captions", "streams": STREAMS, "data_dir": data_dir, "splits": {"validation": "val"}}
    data = Data(source, {"image": "decode|random_resized_crop(32)", "text": "choose|lower|tokens(48)"}, 8)
    batch = jax.device_get(next(data.train_batches(make_mesh())))
    assert batch["image"].shape == (8, 32, 32, 3) and batch["image"].std() > 10
    without = {i for i in range(20) if not captions_of("train", i)}
    assert batch["text/present"].sum() >= 8 - len(without)
    rows = data.examples("validation", items="text")
    assert len(rows) == sum(len(captions_of("val", i)) for i in range(10)) == 21
    assert {rows.shown(i)["text"] for i in range(len(rows))} == {t.lower() for i in range(10) for t in captions_of("val", i)}


@pytest.fixture(scope="module")
def gestures(tmp_path_factory):
    """tfds' own smartwatch_gestures, of recordings made up here."""
    import tensorflow_datasets as tfds

    def generate(self, path):
        for i in range(12):
            walk = np.cumsum(np.random.default_rng(i).normal(size=(20 + i, 3)), axis=0)
            times = {name: np.arange(len(walk), dtype=np.uint64) for name in ("time_millis", "time_nanos", "time_event")}
            sensors = {f"accel_{axis}": walk[:, j] for j, axis in enumerate("xyz")}
            yield i, {"features": {**times, **sensors}, "participant": i % 3, "attempt": i, "gesture": i % 20}

    data_dir = str(tmp_path_factory.mktemp("gestures"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, url: Path(data_dir))
        patch.setattr(tfds.builder_cls("smartwatch_gestures"), "_generate_examples", generate)
        opened(data_dir, dataset="smartwatch_gestures", streams={"label": "gesture"}, prepare=True)
    return data_dir


def test_several_features_are_the_channels_of_one_series(gestures):
    axes = [f"features/accel_{axis}" for axis in "xyz"]
    streams = {"series": axes, "label": "gesture", "tabular": "attempt", "series_x": axes[0]}
    source = opened(gestures, dataset="smartwatch_gestures", streams=streams)
    assert len(source) == 12 and len(source.classes["label"]) == 20
    for row in (source[i] for i in range(12)):
        i = int(row["tabular"])
        walk = np.cumsum(np.random.default_rng(i).normal(size=(20 + i, 3)), axis=0)
        np.testing.assert_array_equal(row["series"], walk.astype(np.float32))  # tfds' records hold no float64
        np.testing.assert_array_equal(row["series_x"], row["series"][:, 0])
        assert row["label"] == i % 20
    assert [row[:2] for row in source.describe()["streams"].rows][:3] == [["series", axis] for axis in axes]
    data = Data(
        {"name": "tfds", "dataset": "smartwatch_gestures", "streams": {"series": axes}, "data_dir": gestures},
        {"series": "window(25)"},
        8,
    )
    batch = jax.device_get(next(data.train_batches(make_mesh())))
    assert batch["series"].shape == (8, 25, 3) and batch["series"].dtype == np.float32
    with pytest.raises(ConfigError, match="streams.series: gesture .ClassLabel. is no number"):
        opened(gestures, dataset="smartwatch_gestures", streams={"series": [axes[0], "gesture"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": {"series": []}}, "should be {stream: feature}"),
        ({"split": "test"}, r"has no split 'test'; it has train \(20\), val \(10\).*splits="),
        ({"splits": {"train": "trian"}}, r"has no split 'trian'; it has train \(20\), val \(10\)"),
        ({"split": "train["}, r"the split 'train\[' of photo_captions/small/1.2.0: Error parsing"),
        ({"split": "train[5:2]"}, "holds no example"),
        ({"split": "train[900:]"}, "incompatible with 20 examples"),
        ({"streams": {"text": "caption/text"}}, r"has no feature 'caption/text'. Did you mean 'captions/text'\? It has: age \(float32\)"),
        ({"streams": {"text": "captions"}}, r"captions/id \(list of int64\), captions/text \(list of Text\)"),
        ({"streams": {"image": "image"}, "key": "image/i"}, r"key: .*Did you mean 'image/id'"),
        ({"streams": {}}, "should be {stream: feature}"),
        ({"dataset": "photo captions"}, "should read like 'name', 'name/config'"),
        ({"dataset": "photo_caption"}, "no data set 'photo_caption', neither prepared in .* Did you mean 'photo_captions'"),
        ({"dataset": "coco_caption"}, "Did you mean 'coco_captions'"),
        ({"dataset": "photo_captions/tiny"}, "BuilderConfig tiny not found.* Known: large, small"),
        ({"dataset": "photo_captions:9.9.9"}, "photo_captions:9.9.9: .* at version 9.9.9, only: 1.2.0"),
        ({"dataset": "coco_captions/2015"}, "Did you mean '2014'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_message(data_dir, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        opened(data_dir, **options)
    assert "\n" not in str(error.value)


def test_another_version_than_is_on_disk_lists_those(tmp_path):
    (tmp_path / "of_mine" / "small" / "1.0.0").mkdir(parents=True)
    (tmp_path / "of_mine" / "small" / "1.0.0" / "dataset_info.json").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path} has no of_mine/small:2.0.0. Did you mean 'of_mine/small/1.0.0'"):
        opened(tmp_path, dataset="of_mine/small:2.0.0")


def test_what_is_not_prepared_says_how(tmp_path):
    with pytest.raises(DataError, match=f"oxford_iiit_pet/4.0.0 is not prepared in {tmp_path}.* data_dir= .* prepare=True"):
        opened(tmp_path, dataset="oxford_iiit_pet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["coco_captions/2014:1.1.0", "spoken_digit"])
def test_what_takes_tensorflow_names_the_extra(tmp_path, name, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(DataError, match=rf"{name} is not prepared in .*TensorFlow.*pip install 'mmjax\[tf\]'"):
        opened(tmp_path, dataset=name)
    assert "".join(capfd.readouterr()) == ""


def test_google_storage_names_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DataError, match="gs://bucket/folder.*pip install gcsfs"):
        opened("gs://bucket/folder")


def test_prepare_prepares_once(builder_class, tmp_path, monkeypatch):
    """The class is known to tfds, as its own are."""
    with pytest.raises(DataError, match="photo_captions/small/1.2.0 is not prepared"):
        opened(tmp_path, dataset="photo_captions/small")
    monkeypatch.setattr(builder_class, "lists_of_lists", False)
    first = opened(tmp_path, dataset="photo_captions/small", prepare=True)
    monkeypatch.setattr(builder_class, "download_and_prepare", lambda *a, **k: pytest.fail("prepared twice"))
    assert [first[i] for i in range(20)] == [opened(tmp_path, prepare=True)[i] for i in range(20)]


def test_what_cannot_be_prepared_says_why(builder_class, tmp_path, monkeypatch):
    def fail(self, dl_manager):
        raise OSError("the archive is to be fetched by hand")

    monkeypatch.setattr(builder_class, "_split_generators", fail)
    with pytest.raises(DataError, match=f"could not be prepared in {tmp_path}.*fetched by hand"):
        opened(tmp_path, dataset="photo_captions/small", prepare=True)


def copy_of(data_dir, tmp_path):
    shutil.copytree(Path(data_dir) / "photo_captions", tmp_path / "photo_captions")
    return tmp_path / "photo_captions" / "small" / "1.2.0"


def test_tfrecord_says_how_to_prepare_it_again(data_dir, tmp_path):
    folder = copy_of(data_dir, tmp_path)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for file in folder.glob("*.array_record-*"):
        file.rename(str(file).replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match=f"is in {folder} in a format .tfrecord.*array_record.*prepare=True and another data_dir"):
        opened(tmp_path)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["dataset_info.json", "photo_captions-train.array_record-00001-of-00002"])
@pytest.mark.parametrize("damage", [Path.unlink, truncate])
def test_damaged_data_say_which_folder_to_delete(name, damage, data_dir, tmp_path):
    folder = copy_of(data_dir, tmp_path)
    damage(folder / name)
    with pytest.raises(DataError, match=r"cannot be (read|opened) .*Delete (its folder|the folder .*) and prepare it again"):
        opened(tmp_path)


def test_reads_without_tensorflow_and_imports_lightly(data_dir):
    code = f"""
import sys
from mmjax.data.sources.tfds import Tfds
assert not {{"tensorflow_datasets", "cv2", "flax"}} & set(sys.modules), "heavy import"
source = Tfds("train", dataset="photo_captions", streams={STREAMS!r}, data_dir={data_dir!r})
assert all(source[i]["image"] for i in range(20)) and source.describe()
assert not {{"tensorflow", "flax"}} & set(sys.modules), "TensorFlow"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
