"""Your own data: a table of files (.csv, .tsv, .jsonl, .parquet), or WebDataset shards (.tar) as img2dataset writes them.

    dict(name="files", path="photos/captions.csv", streams=dict(image="file", text=["caption", "alt"], label="category"))
    dict(name="files", path="cc12m/{00000..01242}.tar", streams=dict(image=["jpg", "png", "webp"], text="txt"))

`streams` says what a stream is read from. Of a table that is a column (`column/field` inside a struct); of a tar it is the
extension of an example's members, or a field of a JSON member (`json/caption`). An image, audio or video stream gives the
bytes of the file whose path is in the column, of the member itself in a tar. A text stream gives a string, or a list of
them, blank ones left out. Any other stream gives the value as it is. Of a list of names a text stream gives all the
texts, any other stream the first that is there. The classes of a label that is told by name are those of the whole table.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.config import ConfigError, DataError, nearest
from mmjax.contract import KINDS, Table
from mmjax.data.sources._splits import ByColumn, ByFile, ByHash, listed, parse_splits
from mmjax.data.sources._tables import SUFFIXES, Tables
from mmjax.data.sources._tars import Tars

FILES = ("image", "audio", "video")  # kinds of streams that are files of their own
TARGETS = ("label",)


class Files:
    """One split of a table or of shards.

    Args:
        split: "train", "validation", "test", or another name that `splits` has.
        streams: {stream: column, or several}, see above.
        path: the table or the tar; a pattern (`part-*.parquet`, `{00000..01242}.tar`), or a list of these.
        splits: `dict(validation=0.1, test=0.1)`, shares of the items by a hash of the key (this is the default), or by
            another column, `dict(hash="album", validation=0.1, test=0.1)`; `dict(column="split", validation="val")`, the
            values of a column, some of them renamed; `dict(train="a.csv", validation="b.csv")`, files in place of `path`.
        key: the column whose equal values are one item, never in two splits and positives of each other. By default the
            paths of the images, or else of the audio, or the videos: several rows with one photo are several texts of it,
            or spoken descriptions.
        root: the folder that paths in the table are relative to, by default the table's own.

    Raises:
        ConfigError: an argument that does not fit, a column or split that is not there (those there are listed).
        DataError: a table or tar that is missing, empty or cannot be read; no file where the table says; one item on
            two sides.
    """

    def __init__(
        self,
        split: str,
        streams: Mapping[str, Any],
        path: Any = None,
        *,
        splits: Mapping[str, Any] | None = None,
        key: str | None = None,
        root: str | None = None,
    ):
        self._streams = _parse_streams(streams)
        self._whole = whole = _opened(self._streams, path, splits, key, root)
        self._rows = whole.rows(split)
        self.classes = whole.classes
        self.fingerprint = f"{whole.names}, {len(whole.data):,} {whole.data.unit}, {whole.data.digest[:16]}"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return _Example(self, int(self._rows[index]))

    def read(self, row: int, name: str) -> Any:
        """A field of a row: a stream, `key`, or `id`, by which a person finds it."""
        data, columns = self._whole.data, self._streams.get(name, [])
        if name == "key":
            return int(self._whole.keys[row])
        if name == "id":
            return data.name(row)
        if _kind(name) == "text":
            return _texts([data.cell(row, column) for column in columns])
        read = data.file if _kind(name) in FILES else data.cell
        return next((value for column in columns if (value := read(row, column)) not in (None, "")), None)

    def fields(self) -> list[str]:
        """What a row has."""
        return [*self._streams, "key", "id"]

    def describe(self) -> dict[str, str | Table]:
        """Which files these are, how many examples a split has, and what is damaged."""
        whole = self._whole
        counts = [[name, len(rows), len(np.unique(whole.keys[rows]))] for name, rows in whole.all_rows().items()]
        return {
            "files": f"{whole.shown}: {len(whole.data):,} {whole.data.unit}",
            "splits": Table(["split", whole.data.unit, "items"], counts, f"Split {whole.how}."),
            **whole.data.notes,
        }


class _Example(Mapping[str, Any]):
    """The fields of a row, each read when it is asked for: who wants only the texts opens no image."""

    def __init__(self, source: Files, row: int):
        self._source, self._row = source, row

    def __getitem__(self, name: str) -> Any:
        if name not in self._source.fields():
            raise KeyError(name)
        return self._source.read(self._row, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.fields())

    def __len__(self) -> int:
        return len(self._source.fields())


class _Whole:
    """All the splits of a table or of shards: they share the columns in memory, the keys, and who is on which side."""

    def __init__(self, streams: Mapping[str, list[str]], path: Any, how: ByHash | ByColumn | ByFile, key: str | None, root: str | None):
        self.how, self._streams = how, streams
        self._patterns = {name: _expanded(patterns) for name, patterns in (how.files if isinstance(how, ByFile) else {"": path}).items()}
        files = list(dict.fromkeys(itertools.chain(*self._patterns.values())))
        self.names, self.shown = _several([file.name for file in files]), _several([str(file) for file in files])
        self.data = _tars(files, streams, how, key, root) if _format(files) == ".tar" else _tables(files, streams, how, key, root)

        paths = next((columns for kind in FILES for stream, columns in streams.items() if _kind(stream) == kind), [])
        by = [key] if key else paths or next(iter(streams.values()))
        numbers, values = self.data.groups(by)
        self.splits, self._in = self._memberships(numbers, values, by, files)
        self.keys = _numbered(self.data.apart(numbers) if by == paths else numbers, numbers < 0)
        self._check_sides()

    @cached_property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The names in the columns of labels, in alphabetical order; of a table, which alone is read."""
        found = {}
        for stream, columns in self._streams.items() if isinstance(self.data, Tables) else ():
            if _kind(stream) in TARGETS:
                values = {self.data.cell(row, column) for column in columns for row in range(len(self.data))} - {None, ""}
                if values and all(isinstance(value, str) for value in values):
                    found[stream] = tuple(sorted(values))
        return found

    def _memberships(self, numbers: np.ndarray, values: Iterator[str], by: list[str], files: list[Path]) -> tuple[list[str], np.ndarray]:
        """The splits, and for every row a number whose bit i says that it is in split i."""
        how = self.how
        if isinstance(how, ByFile):
            of_file = [sum(1 << i for i, found in enumerate(self._patterns.values()) if file in found) for file in files]
            return list(self._patterns), np.repeat(np.array(of_file, np.int32), np.diff(self.data.starts))
        other = how.column if isinstance(how, ByColumn) else how.group
        if other and [other] != by:
            numbers, values = self.data.groups([other])
        if isinstance(how, ByHash):
            bits = np.fromiter((1 << how.of(value) for value in values), np.int32)
            found = np.append(bits, np.int32(0))[numbers]
            for row in np.flatnonzero(numbers < 0):
                found[row] = 1 << how.of(f"row {row}")
            return how.names, found
        known = list(values)
        splits = _ordered([*how.values, *(v for v in known if not any(v in renamed for renamed in how.values.values()))])
        if len(splits) > 30:
            raise ConfigError(f"data.source.splits.column: {other!r} has {len(known):,} values, such as {known[0]!r}: it names no splits.")
        bits = [sum(1 << i for i, split in enumerate(splits) if value in how.values.get(split, [split])) for value in known]
        return splits, np.array([*bits, 0], np.int32)[numbers]

    def _check_sides(self) -> None:
        """Raises `DataError` if rows that share a key are in different splits."""
        rows = np.flatnonzero(self._in)
        side = np.zeros(self.keys.max() + 1, np.int32)
        side[self.keys[rows]] = self._in[rows]
        wrong = rows[side[self.keys[rows]] != self._in[rows]]
        if len(wrong):
            other = rows[(self.keys[rows] == self.keys[wrong[0]]) & (self._in[rows] != self._in[wrong[0]])][0]
            one, two = (next(s for i, s in enumerate(self.splits) if self._in[row] >> i & 1) for row in (wrong[0], other))
            count, name = len(np.unique(self.keys[wrong])), self.data.name(int(other))
            raise DataError(
                f"{self.shown}: {count:,} items are in more than one split, such as {name!r} in {two} and {one}. "
                "What is trained on would be tested on: give all rows of an item the same split."
            )

    def all_rows(self) -> dict[str, np.ndarray]:
        """The rows of every split."""
        return {split: np.flatnonzero(self._in >> i & 1) for i, split in enumerate(self.splits)}

    def rows(self, split: str) -> np.ndarray:
        """The rows of one split, of which there are some."""
        made = f"Splits of {self.shown} are made {self.how}"
        if split not in self.splits:
            raise ConfigError(f"There is no split {split!r}. {made}.{nearest(split, self.splits)}")
        rows = self.all_rows()
        if not len(rows[split]):
            counts = ", ".join(f"{name} {len(found):,}" for name, found in rows.items())
            raise DataError(f"The {split} split is empty. {made}; {self.data.unit}: {counts}. Set data.source.splits.")
        return rows[split]


_OPEN: weakref.WeakValueDictionary[str, _Whole] = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


def _opened(streams: Mapping[str, list[str]], path: Any, splits: Any, key: str | None, root: str | None) -> _Whole:
    """The table or the shards, read once for all splits that are in use."""
    how = parse_splits(splits)
    if (path is None) != isinstance(how, ByFile):
        raise ConfigError(
            "data.source.path names the table or the tar: it is missing."
            if path is None
            else "data.source.splits names files, and so does data.source.path: leave that out."
        )
    path = None if path is None else listed(path, "data.source.path")
    patterns = path or list(itertools.chain(*how.files.values()))  # pyright: ignore[reportAttributeAccessIssue]
    states = [[str(file), (found := file.stat()).st_size, found.st_mtime_ns] for file in _expanded(patterns)]
    name = json.dumps([streams, path, splits, key, root, states])
    with _LOCK:
        whole = _OPEN.get(name)
        if whole is None:
            whole = _OPEN[name] = _Whole(streams, path, how, key, root)
        return whole


def _tables(files: list[Path], streams: Mapping[str, list[str]], how: Any, key: str | None, root: str | None) -> Tables:
    """The tables, of which the columns are read that the config names; all but numbers and labels as strings."""
    used, strings = {}, set()
    for stream, columns in streams.items():
        used |= {column: f"data.source.streams.{stream}" for column in columns}
        strings |= set(columns) if _kind(stream) in (*FILES, "text") else set()
    others = {"key": key, "splits.column": getattr(how, "column", None), "splits.hash": getattr(how, "group", None)}
    for name, column in others.items():
        if column:
            used.setdefault(column, f"data.source.{name}")
            strings.add(column)
    data = Tables(files, used, strings, root)
    for stream, columns in streams.items():
        if _kind(stream) in FILES:
            data.check_files(columns)
    return data


def _tars(files: list[Path], streams: Mapping[str, list[str]], how: Any, key: str | None, root: str | None) -> Tars:
    """The shards. What would need every member to be read before training can begin is refused."""
    others = {"key": key, "root": root, "splits.column": getattr(how, "column", None), "splits.hash": getattr(how, "group", None)}
    if wrong := [name for name, value in others.items() if value]:
        raise ConfigError(f"data.source.{wrong[0]} is for tables. Shards are split by file, or by shares of a hash of the examples' names.")
    data = Tars(files, list(itertools.chain(*streams.values())))
    for stream, columns in streams.items():
        if _kind(stream) == "text":  # all of which are read
            for column in columns:
                data.check([column], f"data.source.streams.{stream}")
        data.check(columns, f"data.source.streams.{stream}")
    return data


def _parse_streams(streams: Any) -> dict[str, list[str]]:
    path = "data.source.streams"
    if not isinstance(streams, Mapping) or not streams:
        raise ConfigError(f"{path}={streams!r} should say what each stream is read from, as dict(image='file', text='caption').")
    for stream in streams:
        if _kind(stream) not in (*KINDS, *TARGETS):
            raise ConfigError(f"{path}: {stream!r} is no stream.{nearest(stream, (*KINDS, *TARGETS))}")
    return {stream: listed(columns, f"{path}.{stream}") for stream, columns in streams.items()}


def _kind(stream: str) -> str:
    return stream.partition("_")[0]


def _texts(cells: list[Any]) -> str | list[str] | None:
    """A string, or a list where there may be several: without blank ones, unless there is no other (then it is unreadable)."""
    if len(cells) == 1 and not isinstance(cells[0], list):
        return None if cells[0] is None else str(cells[0])
    nested = [cell if isinstance(cell, list) else [cell] for cell in cells]
    texts = [str(text) for text in itertools.chain(*nested) if text is not None]
    return [text for text in texts if text.strip()] or texts[:1] or None


def _numbered(numbers: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """int32 keys, of their own where an item is alone."""
    numbers = numbers.astype(np.int32)
    numbers[alone] = max(int(numbers.max()), -1) + 1 + np.arange(alone.sum(), dtype=np.int32)
    return numbers


def _ordered(splits: Iterable[str]) -> list[str]:
    usual = ("train", "validation", "test")
    return sorted(set(splits), key=lambda split: (usual.index(split) if split in usual else len(usual), split))


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names):,} files)"


def _format(files: list[Path]) -> str:
    """The suffix of all the files."""
    known, found = (*SUFFIXES, ".tar"), sorted({file.suffix for file in files})
    if found[0] not in known:
        file = next(file for file in files if file.suffix == found[0])
        raise ConfigError(f"data.source: {file} is neither a table nor a tar: its name should end with one of {', '.join(known)}.")
    if len(found) > 1:
        raise ConfigError(f"data.source: files of several formats ({', '.join(found)}) do not go together.")
    return found[0]


def _expanded(patterns: Sequence[str]) -> list[Path]:
    """The files that patterns stand for, in their order.

    Raises:
        ConfigError: a path on another machine.
        DataError: a file that is not there.
    """
    found: list[Path] = []
    for pattern in itertools.chain(*map(_braces, patterns)):
        if "://" in pattern:
            raise ConfigError(f"data.source: {pattern} is not on this machine's disk. Copy it here, or mount it, and give that path.")
        path = Path(pattern).expanduser()
        matches = [path] if path.is_file() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches or not matches[0].is_file():
            raise DataError(f"There is no file {pattern}" + (", which is a folder." if path.is_dir() else f" (from {os.getcwd()})."))
        found += matches
    return list(dict.fromkeys(found))


def _braces(pattern: str) -> list[str]:
    """`a{00..12}.tar` and `{a,b}.csv` as a shell spells them out."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    inner = [str(n).zfill(len(span[1])) for n in range(int(span[1]), int(span[2]) + 1)] if span else match[1].split(",")
    return [one for text in inner for one in _braces(pattern[: match.start()] + text + pattern[match.end() :])]
