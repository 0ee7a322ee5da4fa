"""One example of a source, preprocessed: random access, and an account of what could not be read."""

from __future__ import annotations

import bisect
import copy
import logging
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from mmjax.config import ConfigError, DataError
from mmjax.contract import kind
from mmjax.data.pp.builder import Padded, Pipeline

log = logging.getLogger("mmjax")


@runtime_checkable
class Source(Protocol):
    """Where examples come from: one split of a data set, with random access from several threads.

    `source[i]` is a dict with a field for every stream it has (encoded images as bytes, texts as strings or lists or
    dicts of these, labels as numbers or names) and, where several examples show the same item, an int32 `key` they
    share. An `id`, if it has one, is what a person finds the example by.

    A source may have `strata`, [(start, stop, weight), ...]: consecutive stretches that hold all its examples, of which
    training draws in proportion to the weights, each shuffled and repeated on its own (`order.py`); `classes`,
    {stream: names}, the names of each label's classes in order; and `has(index, stream)`, whether an example has a stream,
    where that is known without reading it.
    """

    fingerprint: str  # another one means other data

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def describe(self) -> Mapping[str, Any]:
        """Tables and texts for the report: attribution, how the split was made."""
        ...


class Spec(NamedTuple):
    """Shape and dtype of a stream's rows, and whether positions can be invalid."""

    shape: tuple[int, ...]
    dtype: np.dtype
    ragged: bool


def field(example: Mapping[str, Any], stream: str) -> Any:
    """What an example has for a stream: the field of its name, or else of its kind."""
    return example.get(stream, example.get(kind(stream)))


def strata_of(source: Source) -> list[tuple[int, int, float]]:
    """The stretches of a source that training draws from by weight; all of it is one, where it does not say."""
    return list(getattr(source, "strata", None) or [(0, len(source), 1.0)])


def each(items: Any) -> list[Any]:
    """Every item of a field: of one, of a list, or of a dict of these by language, in which each stays under its language."""
    if isinstance(items, Mapping):
        return [{language: item} for language, value in items.items() for item in each(value)]
    items = items if isinstance(items, list | tuple) else [items]
    return [item for item in items if item is not None]


def _nth(items: Any, n: int) -> Any:
    found = each(items)
    return found[n] if n < len(found) else None


def has(source: Source, index: int, stream: str) -> bool:
    """Whether an example has a field for a stream; what cannot be read has none."""
    if hasattr(source, "has"):
        return source.has(index, stream)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return field(source[index], stream) is not None
    except Exception:  # counted when training meets it
        return False


class Unreadable(Exception):
    """This example cannot be read, or holds nothing that the operations can use."""


class Examples:
    """The examples of one split behind one set of pipelines.

    `seed=None` is evaluation: no operation draws. With `cache`, what the operations before the first that draws give
    stays in memory. `items` is a stream of which every item of an example is a row of its own (five captions, the
    recordings of one word), in all languages that its `choose` takes; `rows` then lists (example, which of its items).
    `path` is where the config says how they are read.

    Raises:
        ConfigError: a pipeline's stream is no field of the source, or `items` has no pipeline.
        DataError: more than `max_unreadable` of the examples (and more than one) are unreadable.
    """

    def __init__(
        self,
        source: Source,
        pipelines: Mapping[str, Pipeline],
        *,
        split: str,
        seed: int | None,
        cache: bool = False,
        max_unreadable: float = 0.01,
        items: str | None = None,
        path: str = "data",
    ):
        if items is not None and items not in pipelines:
            raise ConfigError(f"{path}.pp does not read {items!r}, of which every item should be a row. It reads: {', '.join(pipelines)}.")
        self.source, self.pipelines, self.split, self.seed = source, dict(sorted(pipelines.items())), split, seed
        self.items, self.max_unreadable, self.path = items, max_unreadable, path
        self.unreadable: dict[int, str] = {}  # by item of the source, why
        self._failed: dict[int, str] = {}  # by row: of an example's items some can be readable
        self._cache: dict[int, dict[str, Any]] | None = {} if cache else None
        self._encodings: Mapping[str, Mapping[str, np.ndarray]] = {}
        self._lock = threading.Lock()
        self._hashes = {stream: zlib.crc32(stream.encode()) for stream in pipelines}
        self.rows = None if items is None else list(self._item_rows(items))
        self.spec = self._probe()

    def __len__(self) -> int:
        return len(self.source) if self.rows is None else len(self.rows)

    def read(self, row: int, epoch: int = 0, *, shown: bool = False) -> dict[str, Any]:
        """The streams of a row, None where it is absent, and its `key`; with `shown`, texts as they are before `tokens`.

        Raises:
            Unreadable: with the reason, which is kept in `unreadable` too.
        """
        if row in self._failed:
            raise Unreadable(self._failed[row])
        try:
            fields = self._fixed(row)
            out: dict[str, Any] = {"key": fields["key"]}
            for stream, pipeline in self.pipelines.items():
                value = fields[stream]
                rng = self._rng(stream, epoch, row) if True in pipeline.draws else None
                stop = pipeline.readable if shown else None
                out[stream] = None if value is None else pipeline(value, rng, start=pipeline.fixed, stop=stop)
        except Exception as error:
            self._account(row, error)
            raise Unreadable(self._failed[row]) from error
        return out | {stream: {name: values[row] for name, values in arrays.items()} for stream, arrays in self._encodings.items()}

    def _rng(self, stream: str, epoch: int, row: int) -> np.random.Generator | None:
        """Of its own for every use, so that an example does not depend on what was read before it."""
        if self.seed is None:
            return None
        words = (self.seed % 2**32, self.seed >> 32, epoch, row, self._hashes[stream])
        return np.random.default_rng(np.array(words, np.uint32))  # from an array it is made twice as fast

    def shown(self, row: int) -> dict[str, Any]:
        """What a person is shown of a row: pictures as the model gets them, texts as strings; None for what cannot be read."""
        try:
            return self.read(row, shown=True)
        except Unreadable:
            return dict.fromkeys(self.pipelines)

    def with_encodings(self, encodings: Mapping[str, Mapping[str, np.ndarray]], unreadable: Mapping[int, str]) -> Examples:
        """The same with further streams that come encoded, {stream: {name in the batch: its array of all rows}}.

        Rows in `unreadable`, which could not be encoded, are unreadable here.
        """
        other = copy.copy(self)
        other._encodings, other._failed = encodings, {**self._failed, **unreadable}
        return other

    def read_next(self, row: int, epoch: int) -> dict[str, Any]:
        """The streams of the first readable row from `row` on."""
        for i in range(len(self)):
            try:
                return self.read((row + i) % len(self), epoch)
            except Unreadable:
                continue
        raise DataError(f"Nothing in the {self.split} split is readable.")

    def _fixed(self, row: int) -> dict[str, Any]:
        """The fields of a row after the operations that draw nothing."""
        if self._cache is not None and row in self._cache:
            return self._cache[row]
        index, n = (row, 0) if self.rows is None else self.rows[row]
        example = self.source[index]
        fields: dict[str, Any] = {"key": int(example.get("key", index))}
        for stream, pipeline in self.pipelines.items():
            value = field(example, stream)
            value = _nth(value, n) if stream == self.items else value
            fields[stream] = None if value is None else pipeline(value, None, stop=pipeline.fixed)
        if self._cache is not None:
            for value in fields.values():
                if isinstance(value, np.ndarray):
                    value.flags.writeable = False  # an operation that works in place would change it for every later epoch
            self._cache[row] = fields
        return fields

    def _item_rows(self, stream: str) -> Iterator[tuple[int, int]]:
        """(example, which of its items) for every item that `choose` takes, where there is one; nothing is decoded."""
        pipeline = self.pipelines[stream]
        for i in range(len(self.source)):
            n = -1
            try:
                for n, item in enumerate(each(field(self.source[i], stream))):
                    if pipeline(item, None, stop=pipeline.choosing) is not None:
                        yield i, n
            except Exception:  # a row all the same: unreadable, and counted when it is read
                yield i, max(n, 0)

    def _account(self, row: int, error: Exception) -> None:
        if isinstance(error, ConfigError):
            raise error
        if isinstance(error, DataError):
            raise DataError(f"Item {row if self.rows is None else self.rows[row][0]} of the {self.split} split: {error}") from error
        index, why = row if self.rows is None else self.rows[row][0], f"{type(error).__name__}: {error}".removesuffix(": ")
        if name := self._name(index):
            why = f"{name}: {why}"
        with self._lock:
            self._failed[row] = why
            if index in self.unreadable:
                return
            self.unreadable[index] = why
            count = len(self.unreadable)
        if count <= 5:
            log.warning("Item %d of the %s split is unreadable and left out (%s).", index, self.split, why)
        if count > max(1, self.max_unreadable * len(self.source)):
            shown = "; ".join(f"item {i}: {why}" for i, why in list(self.unreadable.items())[:3])
            raise DataError(
                f"{count} items of the {self.split} split are unreadable, more than data.max_unreadable={self.max_unreadable:g} "
                f"of its {len(self.source)}: {shown}. Mend the data, or raise data.max_unreadable."
            ) from error

    def _name(self, index: int) -> Any:
        """The `id` of an example, if that can be read."""
        try:
            return self.source[index].get("id")
        except Exception:
            return None

    def _probe(self) -> dict[str, Spec]:
        """Shapes and types, from the first examples (of each stratum) that have each stream."""
        if not len(self):
            raise DataError(f"The {self.split} split is empty.")
        spec: dict[str, Spec] = {}
        known: set[str] = set()
        for row in self._first_rows(1_000):
            try:
                example = self.read(row)
            except Unreadable:
                continue
            for stream, value in example.items():
                if stream != "key" and stream not in spec and value is not None:
                    array, ragged = (value.value, True) if isinstance(value, Padded) else (value, False)
                    if not isinstance(array, np.ndarray):
                        last = self.pipelines[stream].names[-1]
                        raise ConfigError(f"{self.path}.pp.{stream} ends with {last}, which gives {type(array).__name__}, not an array.")
                    spec[stream] = Spec(array.shape, array.dtype, ragged)
            if len(spec) == len(self.pipelines):
                return spec
            known |= {name for name, value in self.source[row if self.rows is None else self.rows[row][0]].items() if value is not None}
        if self.unreadable and not known:
            raise DataError(f"Nothing in the {self.split} split is readable: {next(iter(self.unreadable.values()))}.")
        missing = next(stream for stream in self.pipelines if stream not in spec)
        raise ConfigError(f"{self.path}.pp.{missing}: no example of the {self.split} split has it. They have: {', '.join(sorted(known))}.")

    def _first_rows(self, count: int) -> Iterator[int]:
        for start, stop, _ in strata_of(self.source):
            first, behind = (i if self.rows is None else bisect.bisect_left(self.rows, (i, 0)) for i in (start, stop))
            yield from range(first, min(behind, first + count))

    def collate(self, examples: Sequence[Mapping[str, Any] | None]) -> dict[str, np.ndarray]:
        """Rows to a batch after the contract; None is a row of padding, `_mask` False."""
        batch: dict[str, np.ndarray] = {}
        keys = np.array([-1 if e is None else e["key"] for e in examples], np.int32)
        for stream, arrays in self._encodings.items():
            batch[f"{stream}/key"] = keys
            for name, values in arrays.items():
                batch[name] = np.zeros((len(examples), *values.shape[1:]), values.dtype)
                for row, example in enumerate(examples):
                    if example is not None:
                        batch[name][row] = example[stream][name]
        for stream, spec in self.spec.items():
            values = np.zeros((len(examples), *spec.shape), spec.dtype)
            valid = np.zeros((len(examples), spec.shape[0]) if spec.ragged else 0, bool)
            here = np.zeros(len(examples), bool)
            for row, example in enumerate(examples):
                value = None if example is None else example[stream]
                if value is None:
                    continue
                here[row] = True
                if spec.ragged:
                    value, valid[row] = value
                if value.shape != spec.shape:
                    sizes = f"{value.shape} here and {spec.shape} elsewhere"
                    raise DataError(f"{self.path}.pp.{stream} gives {sizes}: let it end in one size, as by resize().")
                values[row] = value
            batch[stream], batch[f"{stream}/present"] = values, here
            batch[f"{stream}/key"] = keys
            if spec.ragged:
                batch[f"{stream}/valid"] = valid
        return batch
