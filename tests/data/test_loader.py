"""Batches: their order, where they resume, how processes and devices share them, and what happens to bad data."""

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import toy
from mmjax.config import ConfigError, DataError
from mmjax.contract import BATCH_AXES
from mmjax.data import loader
from mmjax.data.loader import Data
from mmjax.data.split import SplitView
from mmjax.train.sharding import make_mesh

PP = {"image": "decode|random_affine(10, 0.1)|flip_lr", "text": 'choose("en", aliases=False)|lower|words_dropped(0.1)|tokens(40)'}
STEPS = 8  # of 16 rows: two epochs of the 64


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(4, 2)


def toy_data(pp=PP, batch_size=16, source=None, **options):
    return Data({"name": "toy:Toy", **(source or {})}, pp, batch_size, **options)


def taken(batches, n):
    """The next n batches, on the host."""
    return [jax.device_get(next(batches)) for _ in range(n)]


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_array_equal(x[name], y[name], err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted(mesh):
    return taken(toy_data().train_batches(mesh), STEPS + 1)


def keys(batches):
    return np.concatenate([batch["image/key"] for batch in batches])


def test_every_epoch_is_another_permutation_of_all_examples(uninterrupted):
    first, second = keys(uninterrupted[:4]), keys(uninterrupted[4:8])
    assert sorted(first) == sorted(second) == list(range(64))
    assert not np.array_equal(first, second) and not np.array_equal(first, np.arange(64))


def test_an_epoch_that_batches_do_not_divide_runs_on(mesh):
    data = toy_data(source={"size": 20})
    batches = taken(data.train_batches(mesh), 5)
    order = keys(batches)
    assert all(sorted(epoch) == list(range(20)) for epoch in order.reshape(4, 20))
    # Each row is drawn as of its own epoch, in a batch that spans two as well.
    for row, index in enumerate(order):
        expected = data.examples("train", train=True).read(int(index), row // 20)["image"]
        np.testing.assert_array_equal(batches[row // 16]["image"][row % 16], expected)


def test_streams_of_a_row_belong_together(uninterrupted):
    data = toy_data({"image": "decode", "text": 'choose("xx")|tokens(12)'})
    for batch in taken(data.train_batches(make_mesh()), 2):
        for image, text, valid, key in (*zip(*(batch[n] for n in ("image", "text", "text/valid", "text/key")), strict=True),):
            assert data.tokenizer.decode(text[valid]) == f"item{key}"
            np.testing.assert_array_equal(
                image, toy.cv2.imdecode(np.frombuffer(toy.Toy("train")[int(key)]["image"], np.uint8), 1)[..., ::-1]
            )


def test_the_seed_decides(mesh, uninterrupted):
    assert_same(taken(toy_data().train_batches(mesh), 2), uninterrupted[:2])
    other = taken(toy_data(seed=1).train_batches(mesh), 2)
    assert not np.array_equal(keys(other), keys(uninterrupted[:2]))
    assert_same(taken(toy_data(seed=2**32 - 1).train_batches(mesh), 1), taken(toy_data(seed=2**32 - 1).train_batches(mesh), 1))


@pytest.mark.parametrize("start", [1, 3, 4, 7])
def test_resuming_at_a_step_gives_the_batches_of_an_uninterrupted_run(mesh, uninterrupted, start):
    assert_same(taken(toy_data().train_batches(mesh, start), STEPS + 1 - start), uninterrupted[start:])


def test_a_far_step_is_reached_at_once(mesh):
    assert taken(toy_data().train_batches(mesh, 10**9), 1)  # or never


@pytest.mark.parametrize("options", [{"cache": True}, {"threads": 1}, {"threads": 7, "prefetch": 5}, {"threads": 0, "prefetch": 0}])
def test_speed_options_change_nothing(mesh, uninterrupted, options):
    data = toy_data(**options)
    assert_same(taken(data.train_batches(mesh), STEPS + 1), uninterrupted)
    assert_same(
        list(map(jax.device_get, data.eval_batches(mesh, "test"))), list(map(jax.device_get, toy_data().eval_batches(mesh, "test")))
    )


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_global_batch(monkeypatch, mesh, uninterrupted, processes):
    evaluated = [jax.device_get(batch) for batch in toy_data().eval_batches(mesh, "test")]
    monkeypatch.setattr(Data, "_placed", lambda self, batches, mesh: batches)
    parts = []
    for process in range(processes):
        rows = range(process * 16 // processes, (process + 1) * 16 // processes)
        monkeypatch.setattr(loader, "_process_rows", lambda mesh, size, rows=rows: np.array(rows))
        data = toy_data()
        parts.append((taken(data.train_batches(mesh), STEPS + 1), list(data.eval_batches(mesh, "test"))))
    for whole, which in ((uninterrupted, 0), (evaluated, 1)):
        joined = [
            {name: np.concatenate([b[name] for b in same]) for name in same[0]} for same in zip(*(p[which] for p in parts), strict=True)
        ]
        assert_same(joined, whole)


def test_a_process_reads_the_rows_of_its_devices_wherever_the_mesh_has_them(mesh, monkeypatch):
    """Four processes of two devices each, which a mesh need not have in their order."""
    devices = np.array(jax.devices())[[5, 0, 3, 6, 1, 4, 7, 2]]
    scattered = Mesh(devices.reshape(mesh.devices.shape), mesh.axis_names)
    everywhere = NamedSharding(scattered, PartitionSpec(BATCH_AXES)).devices_indices_map((24,))
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    rows = []
    for process in range(4):
        here = {device: index for device, index in everywhere.items() if device.id // 2 == process}
        sharding = SimpleNamespace(addressable_devices_indices_map=lambda shape, here=here: here)
        monkeypatch.setattr(loader, "NamedSharding", lambda mesh, spec, sharding=sharding: sharding)
        rows.append(loader._process_rows(scattered, 24).tolist())
    assert rows[0] == [3, 4, 5, 12, 13, 14] and sorted(row for own in rows for row in own) == list(range(24))


def test_rows_lie_split_over_the_devices(mesh):
    batch = next(toy_data().train_batches(mesh))
    for name, array in batch.items():
        assert array.sharding.spec == PartitionSpec(BATCH_AXES), name
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start)
        assert [shard.data.shape[0] for shard in shards] == [2] * 8, name
        np.testing.assert_array_equal(np.concatenate([shard.data for shard in shards]), array)
    assert batch["image"].dtype == np.uint8 and batch["text"].dtype == np.int32 and batch["text/valid"].dtype == bool


def test_a_split_is_evaluated_once_in_order_and_padded(mesh):
    data = toy_data()
    batches = [jax.device_get(batch) for batch in data.eval_batches(mesh, "validation")]
    assert len(batches) == 2
    mask = np.concatenate([batch["_mask"] for batch in batches])
    np.testing.assert_array_equal(mask, np.arange(32) < 20)
    np.testing.assert_array_equal(keys(batches), [*range(20), *[-1] * 12])
    for name in ("image", "image/present", "text", "text/valid", "text/present"):
        assert not batches[1][name][4:].any()
    source = toy.Toy("validation")
    text, valid = batches[1]["text"], batches[1]["text/valid"]
    assert data.tokenizer.decode(text[3][valid[3]]) == source[19]["text"]["en"][0][:38]  # cut, but no word dropped
    whole = [jax.device_get(batch) for batch in toy_data(batch_size=40).eval_batches(mesh, "validation")]
    np.testing.assert_array_equal(np.concatenate([b["image"] for b in batches])[:20], whole[0]["image"][:20])


def test_an_unreadable_training_item_is_replaced_and_counted_once(mesh):
    data = toy_data(source={"broken": [5, 6], "empty": [9]}, max_unreadable=0.1)
    batches = taken(data.train_batches(mesh), STEPS)
    found, counts = np.unique(keys(batches), return_counts=True)
    assert sorted(set(range(64)) - set(found)) == [5, 6, 9]
    assert dict(zip(found, counts, strict=True))[7] == 6 and dict(zip(found, counts, strict=True))[10] == 4
    assert all(batch["image/present"].all() and batch["text/present"].all() for batch in batches)
    assert data.unreadable == {"train": 3}


def test_an_unreadable_evaluation_item_is_masked_and_counted_once(mesh):
    data = toy_data(source={"broken": [5], "empty": [9]}, max_unreadable=0.1)
    for pp in (None, None, {"image": "decode"}, {"text": PP["text"]}):
        batches = [jax.device_get(batch) for batch in data.eval_batches(mesh, "test", pp)]
        mask = np.concatenate([batch["_mask"] for batch in batches])[:20]
        absent = {5, 9} if pp is None else {5} if "image" in pp else {9}
        assert set(np.flatnonzero(~mask)) == absent
        for batch in batches:
            for stream in pp or PP:
                assert not batch[stream][~batch["_mask"]].any() and not batch[f"{stream}/present"][~batch["_mask"]].any()
    assert data.unreadable == {"test": 2}
    other = list(data.eval_batches(mesh, "validation", {"image": "decode"}))
    assert len(other) == 2 and data.unreadable == {"test": 2, "validation": 1}


@pytest.mark.parametrize("which", ["train", "test"])
def test_too_much_unreadable_data_reaches_the_caller_from_the_threads(mesh, which):
    data = toy_data(source={"broken": range(3, 8), "empty": [12]})
    begin = time.perf_counter()
    with pytest.raises(
        DataError, match=r"\d items of the \w+ split are unreadable, more than .*: item \d+: ValueError: .*; item \d+: ValueError"
    ):
        for _ in data.train_batches(mesh) if which == "train" else data.eval_batches(mesh, which):
            pass
    assert time.perf_counter() - begin < 5


def test_examples_without_a_stream_are_there_with_the_rest(mesh, monkeypatch):
    plain = toy.Toy.__getitem__
    monkeypatch.setattr(toy.Toy, "__getitem__", lambda self, i: {**plain(self, i), **({"text": {"xx": ["x"]}} if i % 3 == 0 else {})})
    data = toy_data()
    for batch in taken(data.train_batches(mesh), 4):
        here = batch["text/key"] % 3 != 0
        np.testing.assert_array_equal(batch["text/present"], here)
        assert batch["image/present"].all() and batch["text/valid"].any(1).tolist() == here.tolist()
        assert not batch["text"][~here].any()
    assert data.unreadable == {"train": 0}


def test_mistakes_are_named(mesh, monkeypatch):
    monkeypatch.setattr(toy, "as_it_is", lambda: lambda x: x, raising=False)
    with pytest.raises(DataError, match=r"The train split has 64 examples, fewer than data.batch_size=72: lower it to 64 or less"):
        toy_data(batch_size=72).train_batches(mesh)
    with pytest.raises(ConfigError, match=r"data.pp.series: no example of the train split has it. They have: image, key, text"):
        _ = toy_data({"image": "decode", "series": "toy.as_it_is"}).spec
    with pytest.raises(ConfigError, match="names no stream"):
        toy_data({})
    with pytest.raises(ConfigError, match=r"data.source.sise is unknown. Did you mean 'size'"):
        toy_data(source={"sise": 3})
    with pytest.raises(ConfigError, match=r"data.tokenizer.vocabulary is unknown. Did you mean 'vocab'"):
        toy_data(tokenizer={"name": "bpe", "vocabulary": 300})
    with pytest.raises(ConfigError, match=r"data.pp.image: 'decod' is no operation"):
        toy_data({"image": "decod"})


def test_differing_sizes_reach_the_caller(mesh, monkeypatch):
    def sized(self, index):
        return {"image": toy.cv2.imencode(".png", np.zeros((8, 8 + index % 2, 3), np.uint8))[1].tobytes()}

    monkeypatch.setattr(toy.Toy, "__getitem__", sized)
    with pytest.raises(DataError, match=r"let it end in one size, as by resize\(\)"):
        next(toy_data({"image": "decode"}).train_batches(mesh))
    assert next(toy_data({"image": "decode|resize(4)"}).train_batches(mesh))["image"].shape == (16, 4, 4, 3)


def test_every_text_is_a_row(mesh, monkeypatch):
    texts = [["a cat", "a dog", "an owl"], "one", [], ["two", "  "], ["three"]]
    monkeypatch.setattr(toy.Toy, "__getitem__", lambda self, i: {"text": texts[i % 5], "key": 100 + i})
    data = toy_data({"text": "choose|lower|tokens(12)"}, source={"size": 10}, max_unreadable=0.5)
    for _ in range(2):  # what was unreadable the first time hides nothing the second time
        batches = [jax.device_get(batch) for batch in data.eval_batches(mesh, "test", items="text")]
        assert len(batches) == 1
        (batch,) = batches
        np.testing.assert_array_equal(batch["_mask"], [True] * 5 + [False, True] + [True] * 5 + [False, True, False, False])
        np.testing.assert_array_equal(batch["text/key"], [100, 100, 100, 101, 103, -1, 104, 105, 105, 105, 106, 108, -1, 109, -1, -1])
        shown = [data.tokenizer.decode(row[valid]) for row, valid in zip(batch["text"], batch["text/valid"], strict=True)]
        assert shown[:7] == ["a cat", "a dog", "an owl", "one", "two", "", "three"]
    rows = SplitView(data, mesh, "test").examples(items="text")
    assert [rows.shown(i)["text"] for i in range(len(rows))][:7] == ["a cat", "a dog", "an owl", "one", "two", None, "three"]
    assert data.unreadable == {"test": 2}


def test_every_text_of_a_language_is_a_row_beside_its_picture(mesh, caplog):
    data = toy_data({"image": "decode", "text": 'choose("en")|tokens(40)'}, batch_size=8, source={"size": 4, "broken": [2]})
    (batch,) = [jax.device_get(batch) for batch in data.eval_batches(mesh, "test", items="text")]
    np.testing.assert_array_equal(batch["text/key"], [0, 0, 1, 1, -1, -1, 3, 3])
    np.testing.assert_array_equal(batch["_mask"], [True] * 4 + [False] * 2 + [True] * 2)
    np.testing.assert_array_equal(batch["image"][0], batch["image"][1])
    assert data.tokenizer.decode(batch["text"][3][batch["text/valid"][3]]) == "number 1"
    assert data.unreadable == {"test": 1} and len(caplog.records) == 1  # one item, though it is two rows
    with pytest.raises(ConfigError, match="does not read 'text', of which every item should be a row"):
        data.examples("test", {"image": "decode"}, items="text")


def test_the_tokenizer_is_trained_once_and_kept_with_the_run(tmp_path):
    options = {"tokenizer": {"name": "bpe", "vocab": 300}, "workdir": tmp_path / "run"}
    first = toy_data(source={"empty": [3], "broken": [4]}, **options)
    stored = (tmp_path / "run" / "tokenizer.json").read_bytes() if first.tokenizer else b""
    assert len(first.tokenizer.encode("middling green")) < 6
    # Other data would train another one: it is read, not trained.
    again = toy_data(source={"size": 2}, **options)
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == stored
    assert toy_data(source={"size": 2}, tokenizer=options["tokenizer"]).tokenizer.fingerprint != first.tokenizer.fingerprint
    (tmp_path / "run" / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="Use a new workdir"):
        _ = toy_data(**options).tokenizer


def test_the_tokenizer_learns_from_what_the_model_will_read():
    upper = toy_data({"text": 'choose("en", aliases=False)|prompt("DRAWING of {}")|tokens(8)'}, tokenizer={"name": "bpe", "vocab": 300})
    assert len(upper.tokenizer.encode("DRAWING")) < len(upper.tokenizer.encode("drawing"))


def test_the_tokenizer_can_be_trained_on_a_sample_of_the_examples(monkeypatch):
    read = []
    item = toy.Toy.__getitem__
    monkeypatch.setattr(toy.Toy, "__getitem__", lambda self, i: read.append(i) or item(self, i))

    def seen(sample, seed=0):
        read.clear()
        print_ = toy_data(tokenizer={"name": "bpe", "vocab": 300, "sample": sample}, seed=seed).tokenizer.fingerprint
        return list(read), print_

    few, fingerprint = seen(10)
    assert len(few) == 10 and few == sorted(set(few)), "each once, in the order in which they lie"
    assert seen(10) == (few, fingerprint) and seen(10, seed=1)[0] != few
    assert seen(1_000) == seen(None) and len(read) == 64 and seen(None)[1] != fingerprint
    with pytest.raises(ConfigError, match="data.tokenizer.sample=0 should be a number of examples"):
        seen(0)
    with pytest.raises(ConfigError, match="data.tokenizer.sampel is unknown. Did you mean 'sample'"):
        toy_data(tokenizer={"name": "bpe", "sampel": 3})


def test_the_fingerprint_follows_data_and_tokenizer():
    prints = [
        toy_data(**options).fingerprint
        for options in ({}, {"source": {"version": 2}}, {"source": {"size": 63}}, {"tokenizer": {"name": "bpe", "vocab": 300}})
    ]
    assert len(set(prints)) == 4 and toy_data(batch_size=8, seed=3).fingerprint == prints[0]


def test_a_second_view_reads_the_same_picture(mesh):
    (batch,) = taken(toy_data({"image": "decode", "image_view2": "decode|random_affine(90, 0.5)"}).train_batches(mesh), 1)
    np.testing.assert_array_equal(batch["image/key"], batch["image_view2/key"])
    assert not np.array_equal(batch["image"], batch["image_view2"])
    (batch,) = taken(toy_data({"image": "decode", "image_view2": "decode"}).train_batches(mesh), 1)
    np.testing.assert_array_equal(batch["image"], batch["image_view2"])


def test_abandoned_iterators_leave_no_threads(mesh):
    data = toy_data()
    next(data.train_batches(mesh))
    gc.collect()
    before = threading.active_count()
    for _ in range(5):
        next(data.train_batches(mesh))
    gc.collect()
    time.sleep(0.5)
    assert threading.active_count() <= before + 2


def test_leaving_in_the_middle_ends_the_interpreter():
    script = """
import sys, time
from mmjax.data.loader import Data
from mmjax.train.sharding import make_mesh
data = Data({"name": "toy:Toy"}, {"image": "decode|flip_lr"}, 16, threads=4)
train, test = data.train_batches(make_mesh()), data.eval_batches(make_mesh(), "test")
next(train), next(train), next(test)
print(time.time())
"""
    paths = [str(Path(loader.__file__).parents[2]), str(Path(toy.__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.time() - float(done.stdout.split()[-1]) < 5 and "Traceback" not in done.stderr
