"""Reads items as a model would get them, and keeps of each what counts and comparisons need."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mmjax.config import UserError
from mmjax.contract import kind
from mmjax.data import examples
from mmjax.data.examples import Source, each
from mmjax.data.inspect.alike import Look, look
from mmjax.data.loader import Data
from mmjax.data.pp.builder import Pipeline
from mmjax.data.show import as_picture
from mmjax.data.tokenizers import Tokenizer

CHUNK = 64  # items that a thread reads at a time
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


class Verdict(NamedTuple):
    """The outcome of one check; what is not fine deserves a look, and may be meant so."""

    check: str
    fine: bool
    said: str


@dataclass
class Seen:
    """One item, read as evaluation reads it, and every text that it has for the model."""

    split: str
    index: int
    fields: dict[str, Any] = field(default_factory=dict)  # numbers and words beside the streams: key, id, concept
    streams: set[str] = field(default_factory=set)  # those that it has
    digests: dict[str, list[bytes]] = field(default_factory=dict)  # of every item that the model can get
    lengths: dict[str, list[tuple[float, int]]] = field(default_factory=dict)  # clips: seconds, rate; series: samples, channels
    looks: dict[str, Look] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # width and height before any operation
    enlarged: set[str] = field(default_factory=set)  # the model gets more pixels than there are
    texts: dict[str, list[str]] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)  # of each text, with begin and end, before any cut
    problem: str = ""

    @property
    def key(self) -> Any:
        """What tells it from other items: equal keys are positives of each other."""
        return self.fields.get("key", (self.split, self.index))


class Reader(NamedTuple):
    """Reads items of one split."""

    source: Source
    split: str
    pipelines: Mapping[str, Pipeline]
    tokenizer: Tokenizer
    first_only: Mapping[str, bool]  # of the streams of texts

    def see(self, index: int) -> Seen:
        """The item at `index`; what cannot be read has a `problem`."""
        seen, stream = Seen(self.split, index), ""
        try:
            example = self.source[index]
            taken = {*self.pipelines, *map(kind, self.pipelines)}
            beside = ((name, example[name]) for name in example if name not in taken)  # a source may read what it is asked for only
            seen.fields = {name: _plain(value) for name, value in beside if _is_plain(value)}
            for stream, pipeline in self.pipelines.items():
                value = examples.field(example, stream)
                shown = None if value is None else pipeline(value, None, stop=pipeline.readable)
                if shown is None or pipeline(shown, None, start=pipeline.readable) is None:
                    continue
                seen.streams.add(stream)
                another_view = stream != kind(stream) and kind(stream) in self.pipelines and stream not in example
                if not another_view:
                    self._look_into(seen, stream, value, shown)
        except UserError:
            raise
        except Exception as error:
            where = [str(name) for name in (seen.fields.get("id", ""), stream) if name != ""]
            seen.problem = ": ".join([*where, f"{type(error).__name__}: {error}".removesuffix(": ")])
        return seen

    def _look_into(self, seen: Seen, stream: str, value: Any, shown: Any) -> None:
        if kind(stream) == "text":
            seen.texts[stream] = [re.sub(r"\s+", " ", text).strip() for text in self._texts(stream, value) if isinstance(text, str)]
            seen.tokens[stream] = [len(self.tokenizer.encode(text)) + 2 for text in seen.texts[stream]]
            return
        pipeline = self.pipelines[stream]
        chosen = [pipeline(item, None, stop=pipeline.choosing) for item in each(value)]
        raw = [item for item in chosen if isinstance(item, bytes | np.ndarray)]
        if raw:
            seen.digests[stream] = [
                hashlib.blake2b(item if isinstance(item, bytes) else item.tobytes(), digest_size=16).digest() for item in raw
            ]
        if kind(stream) == "audio":
            seen.lengths[stream] = [_clip_length(item, shown) for item in raw]
        if kind(stream) == "series":
            seen.lengths[stream] = [(len(item), item.shape[1]) for item in raw if isinstance(item, np.ndarray)]
        picture = as_picture(shown) if kind(stream) == "image" else None
        if picture is not None:
            seen.looks[stream] = look(picture)
            if size := _size(value):
                seen.sizes[stream] = size
                seen.enlarged |= {stream} if min(size) < min(picture.shape[:2]) else set()

    def _texts(self, stream: str, value: Any) -> Iterator[Any]:
        """Every text that the model can read, as evaluation would give it.

        Raises:
            Exception: whatever the operations raise where one of them is no text that they can use.
        """
        pipeline = self.pipelines[stream]
        for part in [{name: texts} for name, texts in value.items()] if isinstance(value, Mapping) else [value]:
            for text in each(part)[: 1 if self.first_only[stream] else None]:
                shown = pipeline(text, None, stop=pipeline.readable)
                if shown is not None:
                    pipeline(shown, None, start=pipeline.readable)
                    yield shown


def _takes_the_first(pipeline: Pipeline) -> bool:
    """Whether of several texts only the first is ever drawn, as by choose(aliases=False)."""
    stop = pipeline.choosing
    return stop > 0 and {pipeline(["first", "second"], np.random.default_rng(i), stop=stop) for i in range(32)} == {"first"}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | np.generic)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _size(value: Any) -> tuple[int, int] | None:
    """Width and height of a picture, of encoded ones from their header."""
    if isinstance(value, np.ndarray):
        return value.shape[1], value.shape[0]
    from PIL import Image

    try:
        return Image.open(io.BytesIO(value)).size
    except Exception:  # OpenCV reads more formats
        return None


def _clip_length(clip: bytes | np.ndarray, shown: Any) -> tuple[float, int]:
    """Seconds and rate, of encoded clips from their header; an array has the rate that its operations say."""
    if isinstance(clip, bytes):
        import soundfile

        about = soundfile.info(io.BytesIO(clip))
        return about.frames / about.samplerate, about.samplerate
    rate = getattr(shown, "rate", 0)
    return len(shown.samples) / rate if rate else float(len(clip)), rate


def scan(data: Data, split: str, limit: int, progress: Progress) -> list[Seen]:
    """The items of a split, a seeded sample where there are more than `limit`."""
    evaluated = data.examples(split)
    total = len(evaluated.source)
    rows = np.arange(total)
    if total > limit:
        rows = np.sort(np.random.default_rng(data.seed).choice(total, limit, replace=False))
    first_only = {stream: _takes_the_first(pipeline) for stream, pipeline in evaluated.pipelines.items() if kind(stream) == "text"}
    reader = Reader(evaluated.source, split, evaluated.pipelines, data.tokenizer, first_only)
    chunks = [rows[i : i + CHUNK].tolist() for i in range(0, len(rows), CHUNK)]
    pool = ThreadPoolExecutor(max(1, data.threads))
    try:
        found = pool.map(lambda chunk: [reader.see(i) for i in chunk], chunks)
        return [seen for part in progress(found, len(chunks), f"reading {split}") for seen in part]
    finally:
        pool.shutdown(cancel_futures=True)
