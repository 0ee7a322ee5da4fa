"""Tables of files and WebDataset shards: what is read, how it is split, and what is said where it is wrong."""

import collections
import gc
import io
import json
import logging
import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from mmjax import config
from mmjax.config import ConfigError, DataError
from mmjax.contract import Table
from mmjax.data import loader
from mmjax.data.examples import Source
from mmjax.data.loader import Data
from mmjax.data.sources import _tars
from mmjax.data.sources.files import Files, _braces

SAMPLE = Path(__file__).parents[1] / "files"
PICTURES = {path.name: path.read_bytes() for path in sorted(SAMPLE.glob("*.jpg"))}
STREAMS = {"image": "file", "text": "caption"}
PP = {"image": "decode|resize(16)", "text": "choose|lower|tokens(24)"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))


def csv_table(folder, rows, header="file,caption", name="captions.csv", pictures=True):
    """A table and, beside it, a picture for each of its paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    for i, row in enumerate(rows if pictures else ()):
        (folder / row.split(",")[0]).write_bytes(list(PICTURES.values())[i % len(PICTURES)])
    return str(path)


def many(n):
    return [f"{i:03d}.jpg,caption {i}" for i in range(n)]


def tar(path, n=12, first=0, names="{:09d}", mtime=1.5, **members):
    """A shard as img2dataset writes it (pax headers, for the fraction of `mtime`): member(i) gives the bytes, None leaves it out."""
    members = members or {
        "jpg": lambda i: list(PICTURES.values())[i % len(PICTURES)],
        "txt": lambda i: f"caption {i}".encode(),
        "json": lambda i: json.dumps({"caption": f"caption {i}", "alt": [f"alt {i}", ""], "width": 100 + i}).encode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for i in range(first, first + n):
            for extension, content in members.items():
                if (data := content(i)) is not None:
                    info = tarfile.TarInfo(f"{names.format(i)}.{extension}")
                    info.size, info.mtime = len(data), mtime
                    file.addfile(info, io.BytesIO(data))
    return str(path)


def whole(path, streams=STREAMS, **arguments):
    """All examples as one split."""
    return Files("all", streams, splits={"all": path}, **arguments)


def everything(**arguments):
    """Every split's examples, by split."""
    return {split: [dict(example) for example in Files(split, **arguments)] for split in ("train", "validation", "test")}


# Tables


def test_a_table_gives_the_bytes_of_its_files_and_its_texts(tmp_path):
    path = csv_table(tmp_path, ['a.jpg,"a cat, asleep\nin ""the sun"""', "b.jpg,NA", "c.jpg,007"])
    source = whole(path)
    assert isinstance(source, Source) and len(source) == 3
    assert source[0]["image"] == (tmp_path / "a.jpg").read_bytes()
    assert [example["text"] for example in source] == ['a cat, asleep\nin "the sun"', "NA", "007"], "no text is taken for a number"
    assert [example["key"] for example in source] == [0, 1, 2] and source[-1]["id"] == "c.jpg"
    with pytest.raises(IndexError):
        source[3]
    with pytest.raises(KeyError):
        source[0]["audio"]


def test_the_same_rows_in_any_format(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows = [{"file": f"{i}.jpg", "caption": f"é {i}", "class": i % 3} for i in range(40)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "file,caption,class\r\n" + "".join(f"{r['file']},{r['caption']},{r['class']}\r\n" for r in rows)
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "t.tsv").write_text(text.replace(",", "\t"))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=7)
    for row in rows:
        (tmp_path / row["file"]).write_bytes(row["caption"].encode())
    found = [
        everything(path=str(tmp_path / f"t.{suffix}"), streams={**STREAMS, "label": "class"})
        for suffix in ("csv", "tsv", "jsonl", "parquet")
    ]
    assert found[0] == found[1] == found[2] == found[3]
    assert sorted(example["id"] for split in found[0].values() for example in split) == sorted(row["file"] for row in rows)
    assert all(example["label"] == int(example["id"][:-4]) % 3 for example in found[0]["train"])


def test_lists_structs_alternatives_and_what_is_missing(tmp_path):
    rows = [
        {"file": "a.jpg", "captions": ["one", " ", "two"], "meta": {"alt": "three", "n": 5}},
        {"file": "b.jpg", "captions": [], "meta": {"alt": None, "n": 6}},
        {"file": None, "other": "c.jpg", "captions": None, "meta": {"alt": "four"}},
        {"file": "d.jpg", "captions": [""], "meta": None},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in "abcd":
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    source = whole(
        str(tmp_path / "t.jsonl"), {"image": ["file", "other"], "text": ["captions", "meta/alt"], "text_alt": "meta/alt", "label": "meta/n"}
    )
    assert [example["image"] for example in source] == [b"a", b"b", b"c", b"d"]
    assert [example["text"] for example in source] == [["one", "two", "three"], None, ["four"], [""]]
    assert [example["text_alt"] for example in source] == ["three", None, "four", None]
    assert [example["label"] for example in source] == [5, 6, None, None]


def test_paths_are_relative_to_their_table_or_to_root_or_absolute(tmp_path):
    for name in ("one", "two"):
        csv_table(tmp_path / name, ["a.jpg,x"])
        (tmp_path / name / "a.jpg").write_text(name)
    (tmp_path / "three.csv").write_text(f"file,caption\n{tmp_path / 'one' / 'a.jpg'},x\n")
    both = whole([str(tmp_path / "one" / "captions.csv"), str(tmp_path / "two" / "captions.csv"), str(tmp_path / "three.csv")])
    assert [example["image"] for example in both] == [b"one", b"two", b"one"]
    assert both[0]["key"] != both[1]["key"], "one name in two folders is two pictures"
    rooted = whole(str(tmp_path / "one" / "captions.csv"), root=str(tmp_path / "two"))
    assert rooted[0]["image"] == b"two"


def test_texts_are_read_without_opening_a_picture(tmp_path):
    path = csv_table(tmp_path, ["a.jpg,x", "b.jpg,y"])
    source = whole(path)
    (tmp_path / "a.jpg").unlink()
    assert source[0]["text"] == "x" and source[0].get("label") is None
    with pytest.raises(FileNotFoundError, match=r"a\.jpg"):
        source[0]["image"]


def test_patterns_are_those_of_a_shell(tmp_path):
    assert _braces("a{08..11}/{x,y}.tar")[:3] == ["a08/x.tar", "a08/y.tar", "a09/x.tar"] and len(_braces("{0..9}{0..9}")) == 100
    for i in range(3):
        csv_table(tmp_path, [f"{i}.jpg,text {i}"], name=f"part-{i}.csv")
    for pattern in ("part-{0..2}.csv", "part-*.csv", "part-[0-2].csv"):
        assert [example["text"] for example in whole(str(tmp_path / pattern))] == ["text 0", "text 1", "text 2"]
    with pytest.raises(DataError, match=r"There is no file .*part-3\.csv"):
        whole(str(tmp_path / "part-{0..3}.csv"))


# Splits


def test_by_default_items_are_split_80_10_10_and_rows_of_an_item_stay_together(tmp_path):
    rows = [f"{i // 5:03d}.jpg,caption {i}" for i in range(1_000)]
    splits = everything(path=csv_table(tmp_path, rows), streams=STREAMS)
    counts = [len({example["id"] for example in examples}) for examples in splits.values()]
    assert sum(counts) == 200 and 145 < counts[0] < 175 and min(counts) > 10
    keys = [{example["key"] for example in examples} for examples in splits.values()]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    for examples in splits.values():
        by_key = collections.Counter(example["key"] for example in examples)
        assert set(by_key.values()) == {5} and len({(example["key"], example["id"]) for example in examples}) == len(by_key)


def test_the_split_of_an_item_is_the_same_everywhere_and_whatever_else_there_is(tmp_path):
    path = csv_table(tmp_path, many(60))
    before = {split: {example["id"] for example in examples} for split, examples in everything(path=path, streams=STREAMS).items()}
    more = csv_table(tmp_path / "more", [*reversed(many(90))])
    after = {split: {example["id"] for example in examples} for split, examples in everything(path=more, streams=STREAMS).items()}
    assert all(before[split] <= after[split] for split in before)
    # Written down once: on every machine, in every version.
    sample = everything(path=str(SAMPLE / "captions.csv"), streams=STREAMS)
    assert {example["id"] for example in sample["validation"]} == {"astronaut.jpg", "cat.jpg"}
    assert {example["id"] for example in sample["test"]} == {"hubble.jpg", "launch.jpg"}
    code = (
        "import sys; from mmjax.data.sources.files import Files; print([e['id'] for e in Files('test', dict(image='file'), sys.argv[1])])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "3", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, env=environment, check=True)
    assert set(json.loads(done.stdout.replace("'", '"'))) == before["test"]


def test_groups_of_another_column_stay_together(tmp_path):
    path = csv_table(tmp_path, [f"{i:03d}.jpg,{i},album {i // 4}" for i in range(400)], "file,caption,album")
    splits = everything(path=path, streams={**STREAMS, "label": "album"}, splits={"hash": "album", "validation": 0.25, "test": 0.25})
    albums = [{example["label"] for example in examples} for examples in splits.values()]
    assert sum(map(len, albums)) == 100 and 35 < len(albums[0]) < 65
    assert len({example["key"] for example in splits["train"]}) == len(splits["train"]), "an album is a side, not an item"
    keyed = Files("train", {**STREAMS, "label": "album"}, path, key="album")
    assert len({example["key"] for example in keyed}) == len({example["label"] for example in keyed}) < len(keyed) / 3


def test_by_a_column_with_names_of_its_own(tmp_path):
    values = ["train", "restval", "val", "test", "unused"]
    path = csv_table(tmp_path, [f"{i:03d}.jpg,{values[i % 5]} {i},{values[i % 5]}" for i in range(50)], "file,caption,part")
    splits = everything(path=path, streams=STREAMS, splits={"column": "part", "train": ["train", "restval"], "validation": "val"})
    assert {s: {e["text"].split()[0] for e in examples} for s, examples in splits.items()} == {
        "train": {"train", "restval"},
        "validation": {"val"},
        "test": {"test"},
    }
    with pytest.raises(ConfigError, match=r"no split 'validation'.*by the column part\. .*Known: restval, test, train, unused, val"):
        Files("validation", STREAMS, path, splits={"column": "part"})
    with pytest.raises(ConfigError, match=r"splits\.column: 'caption' has 50 values, such as 'train 0'"):
        Files("train", STREAMS, path, splits={"column": "caption"})


def test_by_file_also_one_for_two_splits(tmp_path):
    a, b = csv_table(tmp_path, ["a.jpg,x", "b.jpg,y"], name="a.csv"), csv_table(tmp_path, ["c.jpg,z"], name="b.csv")
    splits = everything(streams=STREAMS, splits={"train": a, "validation": b, "test": b})
    assert {name: [example["text"] for example in examples] for name, examples in splits.items()} == {
        "train": ["x", "y"],
        "validation": ["z"],
        "test": ["z"],
    }


@pytest.mark.parametrize("how", ["column", "file", "hash"])
def test_an_item_on_two_sides_is_refused(tmp_path, how):
    rows = [f"{i}.jpg,{i},{('train', 'test')[i % 2]},{i}" for i in range(40)] + [f"7.jpg,again,train,{i + 100}" for i in range(9)]
    path = csv_table(tmp_path, rows, "file,caption,split,writer")
    other = csv_table(tmp_path, ["7.jpg,once more,,"], "file,caption,split,writer", name="other.csv")
    splits = {"column": {"column": "split"}, "file": {"train": path, "test": other}, "hash": {"hash": "writer", "test": 0.5}}[how]
    with pytest.raises(DataError, match=r"1 items are in more than one split, such as '7.jpg' in .*same split"):
        Files("train", STREAMS, None if how == "file" else path, splits=splits)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"validation": 0.6, "test": 0.6}, "shares that leave something for train"),
        ({"hash": "file", "train": 0.8}, "shares that leave something for train"),
        ({"validation": 0.1, "test": "b.csv"}, "shares that leave something for train"),
        ({"column": 3}, "splits.column=3 should be a name"),
        ({"column": "file", "test": 0.1}, "splits.test=0.1 should be a name"),
        ({}, "is empty"),
        ({"hash": "album"}, "no column 'album'. Known: caption, file"),
        ({"train": "a.csv"}, "splits names files, and so does data.source.path"),
    ],
)
def test_splits_that_make_no_sense(tmp_path, splits, message):
    with pytest.raises(ConfigError, match=message):
        Files("train", STREAMS, csv_table(tmp_path, many(4)), splits=splits)


def test_an_empty_split_says_how_the_others_are(tmp_path):
    path = csv_table(tmp_path, ["a.jpg,x", "b.jpg,y"])
    with pytest.raises(
        DataError, match=r"The \w+ split is empty. Splits of .*captions.csv are made by a hash of each item, 80 / 10 / 10 %; rows: train"
    ):
        for split in ("validation", "test"):
            Files(split, STREAMS, path)


def test_what_it_says_of_itself(tmp_path):
    about = Files("test", STREAMS, str(SAMPLE / "captions.csv")).describe()
    assert "24 rows" in about["files"]
    assert about["splits"] == Table(
        ["split", "rows", "items"],
        [["train", 16, 8], ["validation", 4, 2], ["test", 4, 2]],
        "Split by a hash of each item, 80 / 10 / 10 %.",
    )


def test_splits_share_the_table_in_memory_and_let_go_of_it(tmp_path):
    path = csv_table(tmp_path, many(60))
    one, two = Files("train", STREAMS, path), Files("test", STREAMS, path)
    assert one._whole is two._whole
    del one, two
    gc.collect()
    csv_table(tmp_path, [*many(60), "999.jpg,new"])
    assert sum(len(Files(split, STREAMS, path)) for split in ("train", "validation", "test")) == 61


def test_a_large_table_is_no_python_objects(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    n = 200_000
    rows = {
        "file": [f"images/{i // 5:07d}.jpg" for i in range(n)],
        "caption": [f"a photograph of thing number {i} in a room" for i in range(n)],
    }
    parquet.write_table(pa.table(rows), tmp_path / "t.parquet")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0000000.jpg").write_bytes(b"x")
    del rows
    before = len(gc.get_objects()), pa.total_allocated_bytes()
    source = Files("train", STREAMS, str(tmp_path / "t.parquet"))
    assert len(gc.get_objects()) - before[0] < 20_000
    assert pa.total_allocated_bytes() - before[1] < 100 * n, "some 75 bytes a row in the file, and not much more in memory"
    begin = time.perf_counter()
    for i in range(0, len(source), 100):
        assert source[i]["text"]
    assert time.perf_counter() - begin < 30  # a row at a time, and not the whole table for each


# Shards


TAR = {"image": ["jpg", "png", "webp"], "text": "txt"}


def test_shards_are_read_like_a_table(tmp_path):
    paths = [tar(tmp_path / f"{i:05d}.tar", first=100 * i) for i in range(3)]
    source = whole(str(tmp_path / "{00000..00002}.tar"), {**TAR, "text_all": ["txt", "json/alt"], "label": "json/width"})
    assert isinstance(source, Source) and len(source) == 36
    assert source[13] == {
        "image": list(PICTURES.values())[101 % 12],
        "text": "caption 101",
        "text_all": ["caption 101", "alt 101"],
        "label": 201,
        "key": 13,
        "id": "00001.tar/000000101",
    }
    shuffled = np.random.default_rng(0).permutation(36)
    assert [source[int(i)]["text"] for i in shuffled] == [f"caption {100 * (i // 12) + i % 12}" for i in shuffled]
    assert len(whole(str(tmp_path / "*.tar"), TAR)) == 36 and len(whole(paths, TAR)) == 36


def test_members_of_an_example_share_the_name_up_to_the_first_dot(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as file:
        long = "a_folder_with_a_long_name/" * 6 + "x"
        for name in (
            "./one/x.jpg",
            "README",
            "./one/x.seg.png",
            "two/x.TXT",
            "two/x.jpg",
            "two/._x.jpg",
            "one/x.txt",
            f"{long}.jpg",
            "one/x.cls",
        ):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            file.addfile(info, io.BytesIO(name.encode()[:-1] + b"3"))
        folder = tarfile.TarInfo("three")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
    source = whole(str(tmp_path / "a.tar"), {"image": "jpg", "image_seg": "seg.png", "text": "txt"})
    rows = [{name: value for name, value in example.items() if name not in ("key", "id")} for example in source]
    assert rows == [
        {"image": b"./one/x.jp3", "image_seg": b"./one/x.seg.pn3", "text": "one/x.tx3"},
        {"image": b"two/x.jp3", "image_seg": None, "text": "two/x.TX3"},
        {"image": f"{long}.jp3".encode(), "image_seg": None, "text": None},
    ]


def test_a_class_is_a_number(tmp_path):
    path = tar(tmp_path / "a.tar", jpg=lambda i: b"x", cls=lambda i: f"{i}\n".encode(), txt=lambda i: b"007")
    example = whole(path, {**TAR, "label": "cls"})[11]
    assert (example["label"], example["text"]) == (11, "007")


def test_classes_are_the_names_in_the_whole_table(tmp_path):
    """The same in every split; of numbers, and of shards, there are none."""
    rows = [f"{i}.jpg,a,{name},{i % 2},{side}" for i, (name, side) in enumerate([("cat", "train"), ("ant", "test"), ("", "train")])]
    path = csv_table(tmp_path, rows, "file,caption,animal,number,side")
    more = {"splits": {"column": "side"}}
    train, test = (Files(side, {**STREAMS, "label": "animal", "label_n": "number"}, path, **more) for side in ("train", "test"))
    assert train.classes == test.classes == {"label": ("ant", "cat")}
    assert [row["label"] for row in train] == ["cat", None] and [row["label"] for row in test] == ["ant"]
    data = Data({"name": "files", "path": path, "streams": {"label": "animal"}, "key": "file", **more}, {"label": "index()"}, 1)
    assert data.examples("train").read(0)["label"] == 1


def test_every_alternative_is_found_in_its_place(tmp_path):
    path = tar(tmp_path / "a.tar", jpg=lambda i: b"j" if i % 2 else None, png=lambda i: None if i % 2 else b"p", txt=lambda i: b"t")
    assert [example["image"] for example in whole(path, TAR)] == [b"p", b"j"] * 6


def test_a_tar_is_looked_through_once(tmp_path, monkeypatch):
    path = tar(tmp_path / "a.tar")
    first = whole(path, TAR)
    expected, print_ = [dict(example) for example in first], first.fingerprint
    assert (tmp_path / "a.tar.index.npz").exists()
    del first
    with monkeypatch.context() as patched:
        patched.setattr(_tars, "scan", lambda file: pytest.fail("scanned again"))
        again = whole(path, TAR)
        assert [dict(example) for example in again] == expected and again.fingerprint == print_
        del again
    (tmp_path / "a.tar.index.npz").write_bytes(b"damaged")
    assert [dict(example) for example in whole(path, TAR)] == expected
    tar(tmp_path / "a.tar", n=7)
    assert len(whole(path, TAR)) == 7, "another size or time: scanned again"
    assert not list(tmp_path.glob(".*")), "nothing half written is left"


@pytest.mark.parametrize("cached", [True, False])
def test_where_the_folder_is_read_only_the_index_is_in_the_cache(tmp_path, monkeypatch, cached):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache") if cached else "")
    path = tar(tmp_path / "shards" / "a.tar")
    (tmp_path / "shards" / "a.tar.index.npz").mkdir()  # stands for a folder that cannot be written to, for root can write anywhere
    assert len(whole(path, TAR)) == 12
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == int(cached)
    with monkeypatch.context() as patched:
        if cached:
            patched.setattr(_tars, "scan", lambda file: pytest.fail("scanned again"))
        gc.collect()
        assert len(whole(path, TAR)) == 12


def test_many_threads_read_more_shards_than_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(_tars, "OPEN", 2)
    for i in range(8):
        tar(tmp_path / f"{i}.tar", first=10 * i, n=10)
    source = whole(str(tmp_path / "{0..7}.tar"), TAR)
    wrong, before = [], len(os.listdir("/proc/self/fd"))

    def read(seed):
        for i in np.random.default_rng(seed).integers(0, 80, 300):
            if source[int(i)]["text"] != f"caption {i}":
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(os.listdir("/proc/self/fd")) - before <= 2
    del source
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_shards_are_split_by_name_or_by_file(tmp_path):
    for i in range(4):
        tar(tmp_path / f"{i}.tar", n=50, names="{:03d}")  # the same names in each
    path = str(tmp_path / "{0..3}.tar")
    splits = {split: {e["id"] for e in examples} for split, examples in everything(path=path, streams=TAR).items()}
    assert sum(map(len, splits.values())) == 200 and 145 < len(splits["train"]) < 175
    assert {name[6:] for name in splits["test"] if name[0] == "0"} != {name[6:] for name in splits["test"] if name[0] == "1"}
    by_file = {"train": str(tmp_path / "{0..2}.tar"), "test": str(tmp_path / "3.tar")}
    assert [len(Files(split, TAR, splits=by_file)) for split in by_file] == [150, 50]
    for wrong in ({"key": "json/url"}, {"splits": {"column": "json/split"}}, {"splits": {"hash": "json/url", "test": 0.1}}, {"root": "x"}):
        with pytest.raises(ConfigError, match=r"is for tables. Shards are split by file"):
            Files("train", TAR, path, **wrong)


def cut(path, size):
    with open(path, "r+b") as file:
        file.truncate(size)


def test_a_tar_that_is_cut_gives_what_comes_before(tmp_path, caplog):
    path = tar(tmp_path / "00000.tar", n=10)
    tar(tmp_path / "00001.tar", n=10)
    whole_size = os.path.getsize(path)
    for size in (whole_size * 2 // 3, whole_size // 2 + 300, 30_000 // 512 * 512):
        tar(tmp_path / "00000.tar", n=10)
        cut(path, size)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "mmjax"):
            source = whole(str(tmp_path / "*.tar"), TAR)
        assert 10 < len(source) < 20
        assert all(example["image"] in PICTURES.values() and example["text"] for example in source), "none is half there"
        assert len(caplog.records) == 1 and "1 of 2 shards end too early" in caplog.text
        said = source.describe()["damaged_shards"]
        assert f"00000.tar is cut at byte {size:,}, at least " in said and f"{len(source) - 10} examples before that are read" in said
        assert source.fingerprint != whole(str(tmp_path / "00001.tar"), TAR).fingerprint
        del source


def test_a_tar_without_its_end_has_all_its_examples(tmp_path):
    path = tar(tmp_path / "a.tar", n=4)
    with tarfile.open(path) as file:
        list(file)
        end = file.offset
    cut(path, end)
    source = whole(path, TAR)
    assert len(source) == 4 and "at least 1,024 bytes are missing" in source.describe()["damaged_shards"]


def test_damage_in_the_middle_ends_a_tar_there(tmp_path):
    path = tar(tmp_path / "a.tar", n=10)
    data = bytearray(Path(path).read_bytes())
    header = data.index(b"000000006.jpg\0")
    data[header : header + 512] = b"\xff" * 512
    Path(path).write_bytes(data)
    source = whole(path, TAR)
    assert len(source) == 6 and f"is damaged at byte {header:,} of" in source.describe()["damaged_shards"]


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, bytes(10_240)])
def test_a_tar_with_nothing_to_read_is_an_error(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"Nothing can be read: .*a\.tar (is cut at byte 0|is no tar file|has no examples)"):
        whole(str(tmp_path / "a.tar"), TAR)


def test_a_tar_that_shrinks_under_the_run_is_one_unreadable_example(tmp_path):
    path = tar(tmp_path / "a.tar", n=10)
    source = whole(path, TAR)
    cut(path, 2_000)
    with pytest.raises(OSError, match=r"a\.tar is shorter than it was when it was indexed"):
        source[9]["image"]


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ({"image": "jpgg"}, r"streams\.image: the examples in .*a\.tar have no 'jpgg'. Did you mean 'jpg'\? Known: jpg, json, txt"),
        ({"text": ["txt", "tags"]}, r"streams\.text: .*no 'tags'. .*Known: jpg, json, txt"),
        ({"text": "json/captoin"}, r"no 'json/captoin'. Did you mean 'json/caption'\? Known: json/alt, json/caption, json/width"),
        ({"text": "yaml/caption"}, r"no 'yaml/caption'. Known: jpg, json, txt"),
    ],
)
def test_an_extension_that_is_not_there_names_those_that_are(tmp_path, streams, message):
    with pytest.raises(ConfigError, match=message):
        whole(tar(tmp_path / "a.tar"), streams)


# What is wrong with a table


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        (
            {"image": "fille"},
            r"data\.source\.streams\.image: .*captions\.csv has no column 'fille'. Did you mean 'file'\? Known: caption, file",
        ),
        ({"text": ["caption", "alt"]}, r"streams\.text: .* has no column 'alt'"),
        ({"text": "caption/en"}, r"streams\.text: 'caption' in .* has no field 'en'"),
        ({"imaje": "file"}, r"'imaje' is no stream. Did you mean 'image'"),
        ({"image": 3}, r"streams\.image=3 should be a name, or a list of names"),
        ({}, r"should say what each stream is read from"),
    ],
)
def test_streams_that_do_not_fit(tmp_path, streams, message):
    with pytest.raises(ConfigError, match=message):
        Files("train", streams, csv_table(tmp_path, many(4)))


def test_a_table_that_is_not_there(tmp_path):
    for path, error, message in (
        (str(tmp_path / "captions.csv"), DataError, r"There is no file .*captions\.csv \(from "),
        (str(tmp_path), DataError, "which is a folder"),
        ("gs://bucket/captions.csv", ConfigError, "gs://bucket/captions.csv is not on this machine's disk. Copy it here"),
        ("https://x.org/{0..3}.tar", ConfigError, "is not on this machine's disk"),
        (None, ConfigError, "data.source.path names the table or the tar: it is missing"),
        ([], ConfigError, "data.source.path=.. should be a name"),
    ):
        with pytest.raises(error, match=message):
            Files("train", STREAMS, path)
    (tmp_path / "captions.xlsx").write_text("x")
    with pytest.raises(ConfigError, match=r"captions.xlsx is neither a table nor a tar: its name should end with one of \.csv, \.tsv"):
        Files("train", STREAMS, str(tmp_path / "captions.xlsx"))
    with pytest.raises(ConfigError, match=r"several formats \(\.csv, \.tar\)"):
        Files("train", STREAMS, [csv_table(tmp_path, many(2)), tar(tmp_path / "a.tar")])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "has no rows"),
        ("t.csv", b"file,caption\n", "has no rows"),
        ("t.jsonl", b"", "has no rows"),
        (
            "t.csv",
            b"file,caption\na.jpg,a cat, asleep\n",
            r"cannot be read as csv: .*Row #2: Expected 2 columns, got 3.*between double quotes",
        ),
        ("t.csv", "file,caption\na.jpg,caf\xe9\n".encode("latin-1"), "cannot be read as csv: .*UTF-?8"),
        ("t.jsonl", b'{"file": "a.jpg", "caption": "x"}\n{"file": "b.jpg", ', "cannot be read as jsonl: .*one JSON object a line"),
        ("t.jsonl", b'{"file": "a.jpg", "caption": "x"}\n{"file": "b.jpg", "caption": ["y"]}\n', "cannot be read as jsonl: .*same type"),
        ("t.parquet", b"PAR1 but not much more PAR1", "t.parquet cannot be read as parquet"),
        ("t.parquet", b"", "t.parquet cannot be read as parquet"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        whole(str(tmp_path / name))


def test_a_parquet_that_is_cut_or_damaged(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"file": [f"{i}.jpg" for i in range(999)], "caption": [str(i) for i in range(999)]}), path)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:100] + bytes(len(data) - 600) + data[-500:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"t\.parquet cannot be read as parquet"):
            whole(str(path))


def test_tables_that_do_not_go_together(tmp_path):
    csv_table(tmp_path, ["a.jpg,1"], name="1.csv")
    (tmp_path / "2.csv").write_text("file,title\nb.jpg,x\n")
    with pytest.raises(ConfigError, match=r"2\.csv has no column 'caption'"):
        whole(str(tmp_path / "{1,2}.csv"))


def data(path, pp=PP, batch_size=8, **options):
    source = {"name": "files", "path": path, "streams": STREAMS, "splits": {"column": "split"}, **options.pop("source", {})}
    return Data({k: v for k, v in source.items() if v is not None}, pp, batch_size, **options)


def train_table(folder, rows, **options):
    return csv_table(folder, [f"{row},train" for row in rows], "file,caption,split", **options)


def test_a_file_that_is_missing_is_named_counted_and_left_out(tmp_path, caplog):
    path = train_table(tmp_path, many(24))
    (tmp_path / "005.jpg").unlink()
    (tmp_path / "009.jpg").write_bytes(b"no picture")
    found = data(path, max_unreadable=0.1)
    mask = np.concatenate([jax.device_get(batch)["_mask"] for batch in found.eval_batches(mesh(), "train")])
    assert list(np.flatnonzero(~mask)) == [5, 9] and found.unreadable == {"train": 2}
    assert "Item 5 of the train split is unreadable and left out (005.jpg: FileNotFoundError: " in caplog.text
    assert f"{tmp_path}/005.jpg" in caplog.text
    assert "Item 9 of the train split is unreadable and left out (009.jpg: ValueError: not an image" in caplog.text
    with pytest.raises(DataError, match=r"2 items of the train split are unreadable.*item 5: 005\.jpg: FileNotFoundError"):
        list(data(path).eval_batches(mesh(), "train"))


def test_where_no_file_is_there_the_folder_is_named(tmp_path):
    path = train_table(tmp_path / "tables", many(300), pictures=False)
    asked = r"None of the first 100 files that data.source.streams.image names in .* is there, such as '000.jpg'"
    message = rf"{asked}. Paths are relative to {tmp_path}/tables: .*data.source.root"
    with pytest.raises(DataError, match=message):
        whole(path)
    csv_table(tmp_path / "pictures", many(300))
    assert whole(path, root=str(tmp_path / "pictures"))[299]["image"]


def test_texts_that_are_empty_long_or_full_of_control_characters(tmp_path, caplog):
    rows = many(24)
    rows[3], rows[4], rows[5], rows[6] = "003.jpg,", "004.jpg,\x01\x02\x1b", "005.jpg,a\x00b\x07c", f"006.jpg,{'long words ' * 10_000}"
    found = data(train_table(tmp_path, rows), max_unreadable=0.2)
    begin = time.perf_counter()
    batches = [jax.device_get(batch) for batch in found.eval_batches(mesh(), "train", {"text": PP["text"]})]
    assert time.perf_counter() - begin < 5
    text, valid = (np.concatenate([batch[name] for batch in batches]) for name in ("text", "text/valid"))
    assert (
        found.tokenizer.decode(text[5][valid[5]]) == "a b c" and found.tokenizer.decode(text[6][valid[6]]) == "long words long words "[:22]
    )
    assert (
        found.unreadable == {"train": 2}
        and "003.jpg: ValueError: the text is empty" in caplog.text
        and "004.jpg: ValueError" in caplog.text
    )


def mesh():
    from mmjax.train.sharding import make_mesh

    return make_mesh()


def test_fewer_examples_than_a_batch(tmp_path):
    with pytest.raises(DataError, match=r"The train split has 5 examples, fewer than data.batch_size=8: lower it to 5 or less"):
        data(train_table(tmp_path, many(5))).open(["train"])


@pytest.mark.parametrize("processes", [1, 4])
def test_fewer_shards_than_processes(tmp_path, monkeypatch, processes):
    """One shard and four hosts: each reads its rows of the global batch, shuffled over all of it, and goes on from any step."""
    monkeypatch.setattr(Data, "_placed", lambda self, batches, mesh: batches)
    path = tar(tmp_path / "a.tar", n=24)

    def batches(start, process):
        rows = range(process * 8 // processes, (process + 1) * 8 // processes)
        monkeypatch.setattr(loader, "_process_rows", lambda mesh, size: np.array(rows))
        streams = {"image": "jpg", "text": "txt"}
        found = data(None, source={"path": None, "streams": streams, "splits": {"train": path}}).train_batches(mesh(), start)
        return [next(found)["image/key"] for _ in range(6 - start)]

    steps = [np.concatenate(parts) for parts in zip(*(batches(0, process) for process in range(processes)), strict=True)]
    order = np.concatenate(steps)
    assert sorted(order[:24]) == sorted(order[24:]) == list(range(24)) and list(order[:24]) != list(range(24))
    later = [np.concatenate(parts) for parts in zip(*(batches(4, process) for process in range(processes)), strict=True)]
    np.testing.assert_array_equal(later, steps[4:])
    if processes == 1:
        test_fewer_shards_than_processes.whole = steps
    else:
        np.testing.assert_array_equal(steps, test_fewer_shards_than_processes.whole)


def test_the_fingerprint_follows_the_content(tmp_path):
    path = csv_table(tmp_path, many(30))
    first = Files("train", STREAMS, path).fingerprint
    os.utime(path)
    assert Files("train", STREAMS, path).fingerprint == first, "the time of a copy is no content"
    csv_table(tmp_path, [*many(29), "029.jpg,another caption"])
    second = Files("train", STREAMS, path).fingerprint
    assert first != second and first.startswith("captions.csv, 30 rows, ")
    prints = {whole(tar(tmp_path / "a.tar", n=n, mtime=mtime), TAR).fingerprint for n, mtime in ((9, 1.5), (10, 1.5), (9, 2.5))}
    assert len(prints) >= 2 and all(p.startswith("a.tar, ") for p in prints)


def test_the_config_is_checked_like_every_other(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.source\.pth is unknown. Did you mean 'path'"):
        config.check_part("data.sources", {"name": "files", "streams": {}, "pth": "x"}, "data.source", provided=("split",))
    with pytest.raises(ConfigError, match=r"data\.source\.streams is missing"):
        config.check_part("data.sources", {"name": "files", "path": "x"}, "data.source", provided=("split",))


# Audio


def clip(i, kind="WAV", rate=8_000, seconds=0.25, level=0.3):
    """A tone of 200 + 100 i Hz, encoded."""
    out = io.BytesIO()
    soundfile.write(out, level * np.sin(2 * np.pi * (200 + 100 * i) * np.arange(round(seconds * rate)) / rate), rate, format=kind)
    return out.getvalue()


def heard(batch):
    """Which tones are in a batch."""
    spectra = np.abs(np.fft.rfft(np.asarray(batch["audio_speech"])[:, :2_000]))  # 4 Hz apart
    return [round((4 * int(peak) - 200) / 100) for peak in spectra.argmax(axis=1)]


def spoken(folder, clips, header="file,caption"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in clips.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return csv_table(folder, [f"{name},caption {i}" for i, name in enumerate(clips)], header, pictures=False)


def listening(path, audio="decode(8_000)|crop_or_pad(0.5)", columns="file", batch_size=8, **changes):
    source = {"name": "files", "streams": {"audio_speech": columns}, "splits": {"train": path}}
    return Data(**{"source": source, "pp": {"audio_speech": audio}, "batch_size": batch_size, "threads": 1, **changes})


@pytest.mark.parametrize("shards", [False, True], ids=["table", "shards"])
def test_clips_of_every_format_and_rate_are_read_from_tables_and_shards(tmp_path, shards):
    kinds = ("wav", "flac", "ogg", "mp3")
    clips = [clip(i, kinds[i % 4].upper(), rate=(8_000, 16_000)[i // 4]) for i in range(8)]
    if shards:
        members = {kind: lambda i, kind=kind: clips[i] if kinds[i % 4] == kind else None for kind in kinds}
        data = listening(tar(tmp_path / "a.tar", n=8, **members), columns=list(kinds))
    else:
        data = listening(spoken(tmp_path, {f"{i}.{kinds[i % 4]}": content for i, content in enumerate(clips)}))
    (batch,) = data.eval_batches(mesh(), "train")
    assert batch["audio_speech"].shape == (8, 4_000) and batch["audio_speech"].dtype == np.float32
    assert heard(batch) == list(range(8)) and batch["audio_speech/present"].all()
    lengths = np.asarray(batch["audio_speech/valid"]).sum(axis=1)
    assert (abs(lengths - 2_000) <= 600).all() and (lengths[[0, 1, 4, 5]] == 2_000).all(), "an MP3 is a few samples longer"


def test_clips_that_cannot_be_heard_are_counted_and_the_others_are_whole(tmp_path, caplog):
    stereo = io.BytesIO()
    soundfile.write(stereo, np.zeros((800, 2)), 8_000, format="WAV")
    bad = {
        "text.wav": b"this is a text",
        "empty.wav": b"",
        "none.wav": clip(0, seconds=0),
        "half.wav": clip(0)[:-2_000],
        "half.flac": clip(0, "FLAC")[:-300],
        "half.ogg": clip(0, "OGG")[:-300],
        "fast.wav": clip(0, rate=16_000),
        "stereo.wav": stereo.getvalue(),
        "missing.wav": None,
    }
    path = spoken(tmp_path, {**{f"{i}.wav": clip(i) for i in range(8)}, **bad})
    audio = "decode(8_000, resample=False, mix=False)|normalise_loudness|crop_or_pad(0.5)"
    with caplog.at_level(logging.WARNING):
        data = listening(path, audio, max_unreadable=0.9)
        batches = list(data.eval_batches(mesh(), "train"))
    examples = data.examples("train")
    assert {why.partition(":")[0] for why in examples.unreadable.values()} == set(bad) and data.unreadable == {"train": len(bad)}
    said = " ".join(examples.unreadable.values())
    for message in ("no audio that can be read", "no samples", "cut short", "16000 samples a second, not 8000", "2 channels, not one"):
        assert message in said
    assert "is unreadable and left out (text.wav: " in caplog.text
    there = np.concatenate([batch["_mask"] for batch in batches])
    assert there.sum() == 8 and heard(batches[0]) == list(range(8)) and all(np.isfinite(b["audio_speech"]).all() for b in batches)

    with pytest.raises(DataError, match=r"Nothing in the train split is readable: 0.wav: ValueError: the clip has 8000 samples a second"):
        listening(spoken(tmp_path / "one", {"0.wav": clip(0)}), "decode(16_000, resample=False)|crop_or_pad(1)", batch_size=1).examples(
            "train"
        )
    with pytest.raises(DataError, match=r"2 items of the train split are unreadable, more than data.max_unreadable=0.01"):
        list(listening(path, audio).eval_batches(mesh(), "train"))


def test_a_silent_clip_stays_or_is_absent_or_counted_as_the_config_says(tmp_path):
    path = spoken(tmp_path, {f"{i}.wav": clip(i, level=0.3 * (i != 3)) for i in range(8)})

    def read(operation):
        data = listening(path, f"decode(8_000)|{operation}|normalise_loudness|crop_or_pad(0.5)")
        (batch,) = data.eval_batches(mesh(), "train")
        assert np.isfinite(batch["audio_speech"]).all()
        return np.asarray(batch["audio_speech/present"]).tolist(), np.asarray(batch["_mask"]).tolist(), data.unreadable["train"]

    all_but_one = [i != 3 for i in range(8)]
    assert read("gain") == ([True] * 8, [True] * 8, 0)
    assert read("not_silent") == (all_but_one, [True] * 8, 0)
    assert read('not_silent(otherwise="error")') == (all_but_one, all_but_one, 1)


def test_several_recordings_of_one_photo_are_one_item(tmp_path):
    rows = [f"{i // 2}.jpg,{i}.wav" for i in range(6)]
    path = csv_table(tmp_path, rows, "photo,speech", pictures=False)
    for i in range(6):
        (tmp_path / f"{i // 2}.jpg").write_bytes(next(iter(PICTURES.values())))
        (tmp_path / f"{i}.wav").write_bytes(clip(i))
    source = whole(path, {"audio_speech": "speech", "image": "photo"})
    assert [example["key"] for example in source] == [0, 0, 1, 1, 2, 2]
    assert [example["key"] for example in whole(path, {"audio_speech": "speech"})] == list(range(6))
