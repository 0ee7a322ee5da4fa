"""Mixtures: shares, what the parts keep, resumption, processes, and mistakes."""

import jax
import numpy as np
import pytest

import toy
from mmjax import config
from mmjax.config import ConfigError
from mmjax.data import loader
from mmjax.data.loader import Data
from mmjax.data.sources.mixture import Mixture
from mmjax.train.sharding import make_mesh

PP = {"image": "decode|random_affine(10, 0.1)|flip_lr", "text": "choose|lower|words_dropped(0.1)|tokens(24)"}
PARTS = {"big": {"name": "toy:Toy", "size": 50, "weight": 3}, "small": {"name": "toy:Toy", "size": 6, "version": 2, "weight": 1}}
SIZE, STEPS = 16, 10


class Labelled(toy.Toy):
    """`names` are its classes; `streams` all that it gives."""

    def __init__(self, split, names=None, streams=("image", "label"), as_names=False, unknown=(), **options):
        super().__init__(split, **options)
        self.as_names, self.unknown = as_names, unknown
        self.streams, self.count = streams, len(names) if names else 3
        if names:
            self.classes = {"label": list(names)}

    def __getitem__(self, index):
        example = {**super().__getitem__(index), "label": index % self.count, "tabular": np.full(3, index, np.float32)}
        if self.as_names:
            example["label"] = str(example["label"])
        if index in self.unknown:
            example["label"] = -1
        return {name: example[name] for name in self.streams}


@pytest.fixture(autouse=True)
def labelled(monkeypatch):
    monkeypatch.setattr(toy, "Labelled", Labelled, raising=False)


def mixed(parts=PARTS, **options):
    return Data({"name": "mixture", "parts": parts}, PP, SIZE, **options)


def taken(batches, n):
    return [jax.device_get(next(batches)) for _ in range(n)]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_array_equal(x[name], y[name], err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted():
    return taken(mixed().train_batches(make_mesh()), STEPS)


def parts_of(keys):
    """(part, index there) of what `Mixture` makes of them."""
    return keys % len(PARTS), keys // len(PARTS)


def test_batches_hold_the_shares_of_the_weights(uninterrupted):
    for batch in uninterrupted:
        part, _ = parts_of(batch["image/key"])
        assert abs((part == 1).sum() - SIZE / 4) <= 1
    part, index = parts_of(np.concatenate([batch["image/key"] for batch in uninterrupted]))
    assert (part == 1).sum() == STEPS * SIZE // 4
    for which, size in ((0, 50), (1, 6)):  # each in epochs of its own
        own = index[part == which]
        assert all(sorted(epoch) == list(range(size)) for epoch in own[: len(own) // size * size].reshape(-1, size))


def test_an_item_is_augmented_anew_in_each_epoch_of_its_part(uninterrupted):
    data = mixed()
    examples = data.examples("train", train=True)
    seen = {}
    for batch in uninterrupted:
        for key, image in zip(batch["image/key"], batch["image"], strict=True):
            part, index = parts_of(int(key))
            row, epoch = (0, 50)[part] + index, seen.get(key, 0)
            np.testing.assert_array_equal(image, examples.read(row, epoch)["image"])
            seen[key] = epoch + 1
    assert max(seen.values()) > 5


def test_without_weights_parts_have_the_shares_of_their_sizes():
    parts = {name: {key: value for key, value in node.items() if key != "weight"} for name, node in PARTS.items()}
    batches = taken(mixed(parts).train_batches(make_mesh()), 14)  # 224 rows: four epochs of the 56 examples
    part, index = parts_of(np.concatenate([batch["image/key"] for batch in batches]))
    for which, size in ((0, 50), (1, 6)):
        counts = np.bincount(index[part == which], minlength=size)
        assert abs(counts.sum() - 4 * size) <= 1 and set(counts) <= {3, 4, 5}


@pytest.mark.parametrize("start", [1, 6])
def test_resuming_gives_the_batches_of_an_uninterrupted_run(uninterrupted, start):
    assert_same(taken(mixed().train_batches(make_mesh(), start), STEPS - start), uninterrupted[start:])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_global_batch(monkeypatch, uninterrupted, processes):
    monkeypatch.setattr(Data, "_placed", lambda self, batches, mesh: batches)
    parts = []
    for process in range(processes):
        rows = range(process * SIZE // processes, (process + 1) * SIZE // processes)
        monkeypatch.setattr(loader, "_process_rows", lambda mesh, size, rows=rows: np.array(rows))
        parts.append(taken(mixed().train_batches(make_mesh()), STEPS))
    joined = [{name: np.concatenate([b[name] for b in same]) for name in same[0]} for same in zip(*parts, strict=True)]
    assert_same(joined, uninterrupted)


def test_evaluation_reads_the_parts_one_after_the_other():
    data = mixed()
    keys = np.concatenate([jax.device_get(batch["image/key"]) for batch in data.eval_batches(make_mesh(), "test")])
    part, index = parts_of(keys[:56])
    np.testing.assert_array_equal(part, [0] * 50 + [1] * 6)
    np.testing.assert_array_equal(index, [*range(50), *range(6)])
    assert (keys[56:] == -1).all()


def test_a_part_can_be_for_training_only():
    parts = {**PARTS, "small": {**PARTS["small"], "evaluate": False}}
    assert len(Mixture("train", parts=parts)) == 56 and len(Mixture("test", parts=parts)) == 50
    with pytest.raises(ConfigError, match="nothing in the test split"):
        Mixture("test", parts={"small": parts["small"]})


def test_keys_of_different_parts_are_different_and_fit(monkeypatch):
    source = Mixture("train", parts=PARTS)
    assert len({source[i]["key"] for i in range(len(source))}) == 56
    assert source[-1] == source[55] and source[55]["id"] == "small 5"  # what messages about it call it
    with pytest.raises(IndexError):
        source[56]

    class Hashed(Labelled):
        def __getitem__(self, index):
            return {"key": 2**31 - 1 - index}

    monkeypatch.setattr(toy, "Labelled", Hashed)
    keys = [Mixture("train", parts={"a": {"name": "toy:Labelled"}, "b": {"name": "toy:Labelled"}})[i]["key"] for i in range(128)]
    assert len(set(keys)) == 128 and all(type(key) is int and 0 <= key < 2**31 for key in keys)


def test_a_stream_that_a_part_has_not_is_absent_there():
    parts = {
        "texts": {"name": "toy:Labelled", "size": 1_200, "streams": ["text"]},
        "pictures": {"name": "toy:Labelled", "size": 40, "streams": ["image", "text"]},
    }
    data = mixed(parts)
    assert set(data.spec) == {"image", "text"}  # though the first picture comes after 1,200 examples
    batch = taken(data.train_batches(make_mesh()), 1)[0]
    np.testing.assert_array_equal(batch["image/present"], batch["image/key"] % 2 == 1)
    assert batch["text/present"].all() and not batch["image"][~batch["image/present"]].any()


def test_class_names_are_united():
    parts = {
        "a": {"name": "toy:Labelled", "size": 4, "names": ["cat", "dog"]},
        "b": {"name": "toy:Labelled", "size": 3, "names": ["dog", "owl", "cat"], "unknown": [1]},
        "c": {"name": "toy:Labelled", "size": 2, "streams": ["image"]},
    }
    source = Mixture("train", parts=parts)
    assert source.classes == {"label": ["cat", "dog", "owl"]}
    labels = [source[i].get("label") for i in range(9)]
    assert labels == [0, 1, 0, 1, 1, -1, 0, None, None] and type(labels[4]) is int
    named = {"name": "toy:Labelled", "size": 3, "streams": ["label"], "as_names": True}  # names are the same everywhere
    assert [Mixture("train", parts={"a": parts["a"], "b": named})[i]["label"] for i in (4, 5, 6)] == ["0", "1", "2"]
    with pytest.raises(ConfigError, match=r"parts.b: its 'label' has no names of classes"):
        Mixture("train", parts={"a": parts["a"], "b": {"name": "toy:Labelled", "size": 3}})
    assert Mixture("train", parts=PARTS).classes == {}


def test_the_fingerprint_follows_every_part_and_weight():
    changed = [
        {**PARTS, "small": {**PARTS["small"], "version": 3}},
        {**PARTS, "small": {**PARTS["small"], "weight": 2}},
        {"big": PARTS["big"]},
    ]
    prints = {Mixture("train", parts=parts).fingerprint for parts in (PARTS, *changed)}
    assert len(prints) == 4 and Mixture("train", parts=PARTS).fingerprint in prints


def test_describe():
    about = Mixture("train", parts=PARTS).describe()
    assert about["parts"].rows == [["big", 50, 75.0], ["small", 6, 25.0]]
    assert about["big/attribution"] == about["small/attribution"] == "made up"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"small": {**PARTS["small"], "weight": 0}}, r"data.source.parts.small.weight=0 should be a number above 0"),
        ({"small": {**PARTS["small"], "weight": -0.5}}, r"parts.small.weight=-0.5 should be a number above 0"),
        ({"small": {**PARTS["small"], "weight": "half"}}, r"parts.small.weight='half' should be a number above 0"),
        ({"small": {"name": "toy:Toy"}}, r"parts.small.weight is missing: give every part a weight, or none"),
        ({"small": {**PARTS["small"], "wieght": 1}}, r"data.source.parts.small.wieght is unknown. Did you mean 'weight'"),
        ({"small": {"name": "tfdz"}}, r"data.source.parts.small.name: 'tfdz' is not among .* Did you mean 'tfds'"),
        ({"small": "openmoji"}, r"data.source.parts.small should be a mapping with a 'name'"),
    ],
)
def test_mistakes_are_one_message_before_a_part_is_opened(changes, message, monkeypatch):
    monkeypatch.setattr(config, "build", lambda *a, **k: pytest.fail("opened"))
    with pytest.raises(ConfigError, match=message):
        Mixture("train", parts={**PARTS, **changes})
    with pytest.raises(ConfigError, match="should be {part: source}"):
        Mixture("train", parts={})
