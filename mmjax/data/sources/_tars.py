"""WebDataset shards (tar files): where each member lies is found once and kept beside the tar, then read at random.

The members of an example share the name up to the first dot of its last component: `00001/cat.jpg`, `00001/cat.txt`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from mmjax.config import ConfigError, DataError, nearest

log = logging.getLogger("mmjax")
VERSION = 1  # of the index files
BLOCK = 512
OPEN = 64  # tars that are open at a time
LOOKED_AT = 100  # examples, for the fields of their JSON


class Index(NamedTuple):
    """What one tar holds. An array a member, not an object: there may be tens of millions."""

    names: bytes  # of the examples, a line each
    extensions: list[str]
    offsets: Int[np.ndarray, "N E"]  # in the file; -1 where an example has no member of that extension
    sizes: Int[np.ndarray, "N E"]
    problem: str  # how the file ends too early; "" if it does not

    @property
    def digest(self) -> str:
        """Another one means another content; copied files keep it."""
        digest = hashlib.sha256(json.dumps([self.extensions, self.problem]).encode() + self.names)
        digest.update(self.offsets.tobytes() + self.sizes.tobytes())
        return digest.hexdigest()


class Tars:
    """The examples of one or several tars, one after another.

    A column is an extension (`jpg`, `seg.png`) or a field of a JSON member (`json/caption`). `used` are those that are read.

    Raises:
        DataError: nothing in the tars can be read.
    """

    unit = "examples"

    def __init__(self, files: Sequence[Path], used: Sequence[str]):
        self.files, indices = list(files), _indices(files)
        digest = hashlib.sha256("".join(f"{file.name} {index.digest}" for file, index in zip(files, indices, strict=True)).encode())
        self.digest = digest.hexdigest()
        self.extensions = sorted({extension for index in indices for extension in index.extensions})
        self._column = {extension: i for i, extension in enumerate(sorted({_extension(name) for name in used}))}
        self._offsets, self._sizes = (np.concatenate(arrays) for arrays in zip(*(_chosen(i, self._column) for i in indices), strict=True))
        self._names = [index.names for index in indices]
        self.starts = np.cumsum([0, *(len(index.offsets) for index in indices)])
        self._open = functools.lru_cache(maxsize=OPEN)(_Descriptor)

        problems = [f"{file} {index.problem}" for file, index in zip(files, indices, strict=True) if index.problem]
        if not len(self):
            raise DataError(f"Nothing can be read: {problems[0] if problems else f'{files[0]} has no examples'}.")
        self.notes = {"damaged_shards": "; ".join(problems)} if problems else {}
        if problems:
            log.warning("%d of %d shards end too early: %s.", len(problems), len(files), "; ".join(problems[:3]))

    def __len__(self) -> int:
        return len(self._offsets)

    def known(self, column: str) -> list[str]:
        """The columns that could have been meant by `column`."""
        extension, _, field = column.partition("/")
        if not field or extension not in self.extensions:
            return self.extensions
        found = (self._parsed(row, extension) for row in range(min(len(self), LOOKED_AT)))
        return [f"{extension}/{name}" for name in dict.fromkeys(name for fields in found if isinstance(fields, dict) for name in fields)]

    def check(self, columns: Sequence[str], where: str) -> None:
        """Raises `ConfigError` if none of the columns is there."""
        if not any("/".join(column.split("/")[:2]) in self.known(column) for column in columns):
            hint = nearest(columns[0], self.known(columns[0]))
            raise ConfigError(f"{where}: the examples in {self.files[0]} have no {columns[0]!r}.{hint}")

    def file(self, row: int, column: str) -> bytes | None:
        """A member, None where the example has none."""
        at = self._column[column]
        offset, size = int(self._offsets[row, at]), int(self._sizes[row, at])
        if offset < 0:
            return None
        path = self.files[self._shard(row)]
        data = self._open(path).read(size, offset)
        if len(data) < size:
            raise OSError(f"{path} is shorter than it was when it was indexed")
        return data

    def cell(self, row: int, column: str) -> Any:
        """A field of a JSON member, a class number (`cls`), or a member's text; None where there is none."""
        extension, *fields = column.split("/")
        if fields:
            value = self._parsed(row, extension)
            for field in fields:
                value = value.get(field) if isinstance(value, dict) else None
            return value
        data = self.file(row, extension)
        text = None if data is None else data.decode()
        return int(text) if text is not None and extension == "cls" else text

    def _parsed(self, row: int, extension: str) -> Any:
        data = self.file(row, extension)
        return None if data is None else json.loads(data)

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def name(self, row: int) -> str:
        """What a person finds the example by: the shard and the name in it."""
        shard = self._shard(row)
        return f"{self.files[shard].name}/{self._names[shard].splitlines()[row - self.starts[shard]].decode()}"

    def groups(self, columns: Sequence[str]) -> tuple[Int[np.ndarray, " N"], Iterator[str]]:
        """Every example is an item; its name is that of its shard and its own, which may begin anew in every shard."""
        names = (f"{f.stem}/{name.decode()}" for f, names in zip(self.files, self._names, strict=True) for name in names.splitlines())
        return np.arange(len(self), dtype=np.int32), names

    def apart(self, numbers: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Two shards of one name differ already."""
        return numbers


class _Descriptor:
    """An open file, closed when nobody holds it: a thread that still reads keeps one that is out of the cache already."""

    def __init__(self, path: Path):
        self._number = os.open(path, os.O_RDONLY)

    def read(self, size: int, offset: int) -> bytes:
        """The bytes from `offset` on; fewer at the end of the file."""
        return os.pread(self._number, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            os.close(self._number)


def _extension(column: str) -> str:
    return column.partition("/")[0]


def _chosen(index: Index, extensions: Sequence[str] | Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and sizes of some extensions, in their order."""
    offsets = np.full((len(index.offsets), len(extensions)), -1, np.int64)
    sizes = np.zeros_like(offsets)
    for to, extension in enumerate(extensions):
        if extension in index.extensions:
            at = index.extensions.index(extension)
            offsets[:, to], sizes[:, to] = index.offsets[:, at], index.sizes[:, at]
    return offsets, sizes


def _indices(files: Sequence[Path]) -> list[Index]:
    """The index of every tar: read if it is there and newer, made if not."""
    begin, said = time.monotonic(), False
    indices = []
    with ThreadPoolExecutor(4) as pool:
        for done, index in enumerate(pool.map(_index, files)):
            indices.append(index)
            if not said and time.monotonic() - begin > 5:
                said = True
                print(f"Looking through {len(files):,} shards, once: {done + 1:,} took 5 s ...", file=sys.stderr, flush=True)
    return indices


def _index(file: Path) -> Index:
    status = file.stat()
    stamp = json.dumps([VERSION, status.st_size, status.st_mtime_ns])
    beside, places = file.with_name(f"{file.name}.index.npz"), []
    places.append(beside)
    if cache := os.environ.get("MMJAX_CACHE", "~/.cache/mmjax"):
        name = hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:32]
        places.append(Path(cache).expanduser() / "tars" / f"{name}.npz")
    for place in places:
        if (index := _stored(place, stamp)) is not None:
            return index
    index = scan(file)
    for place in places:
        if _store(place, stamp, index):
            break
    return index


def _stored(place: Path, stamp: str) -> Index | None:
    try:
        with np.load(place) as found:
            if str(found["stamp"]) != stamp:
                return None
            extensions, problem = json.loads(str(found["texts"]))
            return Index(found["names"].tobytes(), extensions, found["offsets"], found["sizes"], problem)
    except Exception:  # absent, or not whole: it is made again
        return None


def _store(place: Path, stamp: str, index: Index) -> bool:
    """Whole or not at all, whoever else writes it at the same time."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=f".{place.name}.", delete=False) as scratch:
            try:
                np.savez(
                    scratch,
                    stamp=np.array(stamp),
                    texts=np.array(json.dumps([index.extensions, index.problem])),
                    names=np.frombuffer(index.names, np.uint8),
                    offsets=index.offsets,
                    sizes=index.sizes,
                )
                scratch.close()
                os.chmod(scratch.name, 0o644)
                os.replace(scratch.name, place)
            except OSError:
                os.unlink(scratch.name)
                raise
    except OSError:
        return False
    return True


def scan(file: Path) -> Index:
    """Reads the headers of a tar (ustar, pax, GNU), not the contents. What comes before a cut or damage is kept."""
    examples: dict[str, dict[str, tuple[int, int]]] = {}
    with open(file, "rb", buffering=0) as opened:
        size = os.fstat(opened.fileno()).st_size
        problem = _scan(opened.fileno(), size, examples)
    last = list(examples.values())[-2:]
    if problem and len(last) == 2 and len(last[1]) < len(last[0]):
        examples.popitem()  # of which only a part is there
    extensions = sorted({extension for members in examples.values() for extension in members})
    column = {extension: i for i, extension in enumerate(extensions)}
    offsets = np.full((len(examples), len(extensions)), -1, np.int64)
    sizes = np.zeros_like(offsets)
    for row, members in enumerate(examples.values()):
        for extension, (offset, length) in members.items():
            offsets[row, column[extension]], sizes[row, column[extension]] = offset, length
    if problem:
        problem += f": {len(examples):,} examples before that are read"
    return Index("\n".join(examples).encode(), extensions, offsets, sizes, problem)


def _scan(descriptor: int, size: int, examples: dict[str, dict[str, tuple[int, int]]]) -> str:
    """Fills `examples`; returns how the file ends too early, or ""."""
    at, renamed = 0, ""
    while True:
        header, content = os.pread(descriptor, BLOCK, at), at + BLOCK
        if len(header) < BLOCK:
            return _cut(size, content if header else at)
        if not any(header):
            return ""
        try:
            kind, name, length = _header(header)
        except ValueError:
            return f"is damaged at byte {at:,} of {size:,}" if at else "is no tar file"
        at = content + -(-length // BLOCK) * BLOCK
        if content + length > size:
            return _cut(size, at)
        if kind in b"xL":
            renamed = _renamed(kind, os.pread(descriptor, length, content)) or renamed
        elif kind in b"0\0":
            name, renamed = renamed or name, ""
            folder, _, last = name.rpartition("/")
            stem, _, extension = last.partition(".")
            if stem and extension:  # not .DS_Store, not README
                example = f"{folder}/{stem}".removeprefix("./").lstrip("/")
                examples.setdefault(example, {}).setdefault(extension.lower(), (content, length))


def _cut(size: int, expected: int) -> str:
    """`expected` is where the next member would begin, or the two blocks of zeros that end a tar."""
    return f"is cut at byte {size:,}, at least {expected + 2 * BLOCK - size:,} bytes are missing"


def _header(header: bytes) -> tuple[bytes, str, int]:
    """Type, name and size of a member. Raises `ValueError` for what is no header."""
    if header[257:262] != b"ustar":
        raise ValueError("no tar header")
    length = int(header[124:136].rstrip(b" \0") or b"0", 8)
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    if prefix and header[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return header[156:157], name.decode(errors="replace"), length


def _renamed(kind: bytes, content: bytes) -> str:
    """The name that an extended header gives to the member behind it, or ""."""
    if kind == b"x":
        found = re.search(rb"(?:^|\n)\d+ path=([^\n]*)\n", content)
        content = found[1] if found else b""
    return content.rstrip(b"\0").decode(errors="replace")
