"""Any data set of TensorFlow Datasets (https://www.tensorflow.org/datasets), by name; TensorFlow itself is not needed to read one.

The data set lies on disk (or gs://) as array_record files, in tfds' own layout, and is read by random access. A prepared
data set needs no code: one that tfds does not know is found by its folder.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax.config import ConfigError, DataError, nearest
from mmjax.contract import Table
from mmjax.data.sources._prepared import prepare_once, reading

MEDIA = ("image", "audio", "video")  # streams of these kinds stay encoded bytes; other strings are texts
SPLITS = ("train", "validation", "test")


class Field(NamedTuple):
    """How a feature is read: its path, the tfds feature that parses it, and what makes its values plain."""

    path: str
    feature: Any
    plain: Callable[[Any], Any]


class Tfds:
    """One split of a tfds data set.

    `source[i]` has a field a stream, and `key`. Images stay encoded bytes, texts are strings (a list, where the feature
    is in a sequence: several captions an image; lists of lists come as one list), class labels are ints with their
    names in `classes`, other numbers are numpy arrays. A text stream of a class label is the class's name. Audio is float32
    [S] (or [S, channels]) in [-1, 1], of 16 bits as tfds decodes it and at the data set's own rate, which `describe` tells;
    what tfds keeps encoded (`lazy_decode`) stays bytes.

    Args:
        split: "train", "validation" or "test", or anything that tfds understands ("train[:10%]").
        dataset: the name, as tfds writes it: "coco_captions", "coco_captions/2014:1.1.0".
        streams: {stream: feature}, features inside of others after a slash: {"image": "image", "text": "captions/text"}.
            Several features of numbers are the channels of one stream: {"series": ["features/accel_x", "features/accel_y"]}.
        splits: {the run's split: tfds' split}, as in {"validation": "val[:5000]"}; what is not named stays itself.
        key: the feature that says which examples show the same item; by default each is an item of its own.
        data_dir: where tfds keeps its data sets, a folder or gs://...; by default `TFDS_DATA_DIR` or tfds' own default.
        prepare: whether a data set that is not there is downloaded and prepared.

    Raises:
        ConfigError: no such data set, split or feature; those there are get listed.
        DataError: it is not prepared, or not as array_record, or damaged, or a package is missing.
    """

    def __init__(
        self,
        split: str,
        *,
        dataset: str,
        streams: Mapping[str, str | Sequence[str]],
        splits: Mapping[str, str] | None = None,
        key: str | None = None,
        data_dir: str | None = None,
        prepare: bool = False,
    ):
        known = isinstance(streams, Mapping) and streams and all(map(_paths, streams.values()))
        if not known or not all(isinstance(path, str) for value in streams.values() for path in _paths(value)):
            raise ConfigError(
                f"tfds: streams={streams!r} should be {{stream: feature}}, as in {{'image': 'image', 'text': 'captions/text'}}."
            )
        info = _open(dataset, data_dir, prepare).info
        self._info, self._splits = info, {**{name: name for name in SPLITS}, **(splits or {})}
        self._folder = str(info.data_dir)
        self._split = _known_split(info, self._splits.get(split, split))

        found = dict(flattened(info.features))
        self._fields: dict[str, list[Field]] = {}
        for stream, value in {**streams, **({} if key is None else {"key": key})}.items():
            where = "key" if stream == "key" else f"streams.{stream}"
            self._fields[stream] = [_field(stream, _known(p, found, info.full_name, where), found[p]) for p in _paths(value)]
            if len(self._fields[stream]) > 1 and (wrong := [p for p in _paths(value) if not _is_number(found[p])]):
                raise ConfigError(f"tfds: {where}: {wrong[0]} ({_shown(found[wrong[0]])}) is no number, to be a channel beside others.")
        self._streams = dict(streams)
        self._keyed = key is not None
        single = {stream: path for stream, path in streams.items() if isinstance(path, str) and not stream.startswith("text")}
        labels = {stream: _leaf(found[path])[0] for stream, path in single.items()}
        self.classes = {stream: list(leaf.names) for stream, leaf in labels.items() if _is_label(leaf)}
        nested = {path: feature for path, feature in found.items() if _leaf(feature)[1] > 1}  # tfds' parser wants all of these
        self._records, self._parse = self._opened({**nested, **{f.path: f.feature for fields in self._fields.values() for f in fields}})
        sizes = sorted((name, s.num_examples, int(s.num_bytes), s.shard_lengths) for name, s in info.splits.items())
        identity = f"{info.full_name} {self._split} {sorted(self._streams.items())} {key} {sizes}"
        self.fingerprint = f"{info.full_name}/{self._split}/{hashlib.sha256(identity.encode()).hexdigest()[:16]}"

    def _opened(self, features: Mapping[str, Any]) -> tuple[Any, Callable[[bytes], dict[str, Any]]]:
        """Random access to the records, and what parses one: of its features only those that are asked for."""
        import tensorflow_datasets as tfds

        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        parse: Any = tfds.features.FeaturesDict(dict(features)).deserialize_example_np
        builder: Any = tfds.builder_from_directory(self._folder)
        try:
            with self._reading():
                records: Any = builder.as_data_source(split=self._split, deserialize_method=raw)
                for i in (0, len(records) - 1):  # a missing or truncated file shows here, not in mid-training
                    parse(records[i])
        except DataError as error:
            if not isinstance(error.__cause__, NotImplementedError):
                raise
            raise DataError(
                f"tfds: {self._info.full_name} is in {self._folder} in a format ({self._info.file_format.value}) that cannot be read "
                "in any order. Prepare it as array_record in another place: set prepare=True and another data_dir beside dataset=."
            ) from None
        return records, parse

    def _reading(self):
        return reading(self._folder, f"data set {self._info.full_name}", "prepare it again")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} is outside a split of {len(self)} examples")
        index %= len(self)
        with self._reading():
            row = self._parse(self._records[index])
        out = {name: _together([field.plain(row[field.path]) for field in fields]) for name, fields in self._fields.items()}
        return {**out, "key": _key(out["key"]) if self._keyed else index}

    def describe(self) -> dict[str, str | Table]:
        """What the data set says of itself, its splits and which of them the run reads, and the features behind the streams."""
        info, run = self._info, {}
        for name, spec in self._splits.items():
            run.setdefault(spec, []).append(name)
        counts = [[name, split.num_examples, round(int(split.num_bytes) / 2**20, 1)] for name, split in info.splits.items()]
        reads = "; ".join(f"{', '.join(names)}: {spec}" for spec, names in run.items())
        found = dict(flattened(info.features))
        rows = [[stream, path, _shown(found[path])] for stream, value in self._streams.items() for path in _paths(value)]
        about = {
            "attribution": f"{info.full_name}, read by TensorFlow Datasets. {info.homepage}\n{info.citation}".strip(),
            "description": info.description,
            "splits": Table(["split", "examples", "MiB"], counts, f"The run reads {reads}."),
            "streams": Table(["stream", "feature", "type"], rows),
        }
        return {name: value for name, value in about.items() if value}


def flattened(feature: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """("captions/text", Sequence(Text)): every feature inside of dicts and sequences, under its path."""
    from tensorflow_datasets import features

    if isinstance(feature, features.FeaturesDict):
        for name, inner in feature.items():
            yield from flattened(inner, f"{path}/{name}" if path else name)
    elif isinstance(feature, features.Sequence) and not isinstance(feature, features.Dataset):
        yield from ((name, features.Sequence(inner)) for name, inner in flattened(feature.feature, path))
    else:
        yield path, feature


def _paths(value: Any) -> list[Any]:
    """The features of a stream: one, or several as its channels."""
    return [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []


def _together(values: list[Any]) -> Any:
    """The only one, or several as the last axis of one array; None where one is missing."""
    if len(values) == 1:
        return values[0]
    return None if any(value is None for value in values) else np.stack(values, axis=-1)


def _is_number(feature: Any) -> bool:
    from tensorflow_datasets import features

    leaf = _leaf(feature)[0]
    return np.dtype(leaf.np_dtype).kind in "iuf" and not isinstance(leaf, features.ClassLabel | features.Image)


def _leaf(feature: Any) -> tuple[Any, int]:
    """What is inside of sequences, and of how many."""
    from tensorflow_datasets import features

    depth = 0
    while isinstance(feature, features.Sequence):
        feature, depth = feature.feature, depth + 1
    return feature, depth


def _is_label(leaf: Any) -> bool:
    from tensorflow_datasets import features

    return isinstance(leaf, features.ClassLabel)


def _field(stream: str, path: str, feature: Any) -> Field:
    """How a feature is read for a stream; a list of lists becomes one list."""
    from tensorflow_datasets import features

    leaf, depth = _leaf(feature)
    if isinstance(leaf, features.Image):  # its bytes as they are: pp decodes them
        feature, one = features.Text(), _same
        for _ in range(depth):
            feature = features.Sequence(feature)
    elif _is_label(leaf) and stream.startswith("text"):
        one = partial(_class_name, leaf.names)
    elif _is_label(leaf) and not depth:
        one = _class_index
    elif isinstance(leaf, features.Audio):
        one = _waveform
    elif np.dtype(leaf.np_dtype) == np.object_:
        one = _same if stream.split("_")[0] in MEDIA else bytes.decode
    else:
        return Field(path, feature, partial(_numbers, leaf, depth))
    return Field(path, feature, partial(_plain, one, depth))


def _plain(one: Callable[[Any], Any], depth: int, value: Any) -> Any:
    """`one` of a value, or of each value in lists; None is what an optional feature has not."""
    if depth == 0 or value is None:
        return None if value is None else one(value)
    return [one(v) for v in _joined(value, depth)]


def _joined(value: Any, depth: int) -> Any:
    for _ in range(depth - 1):
        value = list(itertools.chain.from_iterable(value))
    return value


def _numbers(leaf: Any, depth: int, value: Any) -> np.ndarray | None:
    if value is None:
        return None
    value = _joined(value, depth)
    return np.asarray(value, leaf.np_dtype) if depth == 0 or len(value) else np.zeros((0, *(n or 0 for n in leaf.shape)), leaf.np_dtype)


def _same(value: Any) -> Any:
    return value


def _waveform(value: Any) -> Any:
    """In [-1, 1], of samples of 16 bits."""
    if isinstance(value, bytes):
        return value
    value = np.asarray(value)
    return value.astype(np.float32) / (2**15 if value.dtype.kind == "i" else 1)


def _class_index(value: Any) -> int | None:
    return None if value < 0 else int(value)  # -1 is tfds' "unknown"


def _class_name(names: Sequence[str], value: Any) -> str | None:
    return None if value < 0 else str(names[value])


def _key(value: Any) -> int:
    """The same non-negative int32 for the same value, on every day: itself where it is one."""
    value = value.item() if isinstance(value, np.ndarray) else value
    if isinstance(value, int) and 0 <= value < 2**31:
        return value
    return zlib.crc32(str(value).encode()) & 0x7FFF_FFFF


def _shown(feature: Any) -> str:
    """'list of Text' for Sequence(Text)."""
    leaf, depth = _leaf(feature)
    kind = type(leaf).__name__
    what = f"{np.dtype(leaf.np_dtype)}{list(leaf.shape) or ''}" if kind in ("Tensor", "Scalar") else kind
    what += f" at {leaf.sample_rate:,} Hz" if kind == "Audio" and leaf.sample_rate else ""
    return "list of " * depth + what


def _known(path: str, found: Mapping[str, Any], name: str, where: str) -> str:
    if path not in found:
        close = difflib.get_close_matches(path, found, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        there = ", ".join(f"{path} ({_shown(feature)})" for path, feature in sorted(found.items()))
        raise ConfigError(f"tfds: {where}: {name} has no feature {path!r}.{hint} It has: {there}.")
    return path


def _known_split(info: Any, split: str) -> str:
    """The split, if tfds can read it and it is not empty."""
    try:
        count = info.splits[split].num_examples
    except Exception as error:
        if "Unknown split" in str(error) or not isinstance(split, str):
            there = ", ".join(f"{name} ({s.num_examples:,})" for name, s in info.splits.items())
            raise ConfigError(
                f"tfds: {info.full_name} has no split {split!r}; it has {there}. "
                f"Say in splits= what stands for the run's train, validation and test: dict(validation='train[90%:]', ...)."
            ) from None
        raise ConfigError(f"tfds: the split {split!r} of {info.full_name}: {str(error).splitlines()[0]}") from None
    if count < 1:
        raise ConfigError(f"tfds: the split {split!r} of {info.full_name} holds no example.")
    return split


def _open(dataset: str, data_dir: str | None, prepare: bool) -> Any:
    """The builder of a data set that is on disk, prepared now if that is asked for."""
    from tensorflow_datasets.core import read_only_builder, registered

    where = data_dir or f"tfds' own place ({_default_dir()})"
    try:
        return read_only_builder.builder_from_files(dataset, data_dir=data_dir)
    except registered.DatasetNotFoundError:
        pass
    except ImportError as error:
        raise _missing_package(error, f"tfds: {dataset} is in {where}, and reading it") from error
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, ValueError) and "Parsing builder name" in reason:
            raise ConfigError(f"tfds: dataset={dataset!r} should read like 'name', 'name/config' or 'name/config:1.0.0'.") from None
        raise DataError(f"tfds: {dataset} in {where} cannot be opened ({reason[:200]}). Delete its folder and prepare it again.") from error
    builder = _from_code(dataset, data_dir, where)
    if not prepare:
        raise DataError(
            f"tfds: {builder.info.full_name} is not prepared in {where}. Say by data_dir= where it is, or set prepare=True beside "
            f"dataset= to download and prepare it (download {builder.info.download_size}, on disk {builder.info.dataset_size})."
        )
    _prepare(builder)
    return read_only_builder.builder_from_files(dataset, data_dir=data_dir)


def _default_dir() -> str:
    from tensorflow_datasets.core import constants

    return constants.DATA_DIR


def _from_code(dataset: str, data_dir: str | None, where: str) -> Any:
    """The builder that tfds has code for."""
    import tensorflow_datasets as tfds

    name, _, config = dataset.split(":")[0].partition("/")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where TensorFlow is missing, tfds says so in eight lines
            return tfds.builder(dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        there = _on_disk(Path(data_dir or _default_dir()))
        if known := [full for full in there if full.split("/")[0] == name]:
            raise ConfigError(f"tfds: {where} has no {dataset}.{nearest(dataset.replace(':', '/'), known)}") from None
        known = {*tfds.list_builders(with_community_datasets=False), *(full.split("/")[0] for full in there)}
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ConfigError(f"tfds: there is no data set {name!r}, neither prepared in {where} nor among those of tfds.{hint}") from None
    except ImportError as error:
        raise _missing_package(error, f"tfds: {dataset} is not prepared in {where}, and preparing it (by prepare=True)") from error
    except Exception as error:  # an unknown config or version: ValueError or AssertionError, behind a long prefix
        reason = (str(error).partition('}": ')[2] or str(error)).splitlines()[0].partition(" Here are")[0]
        known = nearest(config, tfds.builder_cls(name).builder_configs) if "BuilderConfig" in reason else ""
        raise ConfigError(f"tfds: {dataset}: {reason}{known}") from None


def _on_disk(data_dir: Path) -> list[str]:
    """'name/config/version' of what is prepared in a local folder."""
    return [str(file.parent.relative_to(data_dir)) for depth in ("*/*", "*/*/*") for file in data_dir.glob(f"{depth}/dataset_info.json")]


def _missing_package(error: ImportError, what: str) -> DataError:
    if "gcsfs" in str(error):
        return DataError(f"{what}: Google Cloud Storage takes another package: pip install gcsfs")
    if error.name == "tensorflow" or "tensorflow" in str(error):
        return DataError(f"{what} takes TensorFlow (audio, video and some others do): pip install 'mmjax[tf]', or pip install tensorflow")
    return DataError(f"{what} takes a package that is not installed ({error}): pip install {error.name or '...'}")


def _prepare(builder: Any) -> None:
    """Downloads and writes as array_record; on disk, one process does it and the others wait."""
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP, try_download_gcs=False)
    folder = str(builder.data_path)

    def prepare() -> None:
        builder.download_and_prepare(file_format="array_record", download_config=config)

    try:
        if "://" in folder:
            prepare()
        else:
            prepare_once(Path(folder), prepare)
    except ImportError as error:
        raise _missing_package(error, f"tfds: to prepare {builder.info.full_name}") from error
    except Exception as error:  # of downloads, of archives that are to be fetched by hand, of full disks
        raise DataError(f"tfds: {builder.info.full_name} could not be prepared in {folder}: {str(error).strip()}") from error
