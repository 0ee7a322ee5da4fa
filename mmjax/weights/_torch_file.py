"""Arrays from PyTorch's files (.pth, .pt, .bin), without PyTorch and without running what a pickle may hold.

Reads the zip format of PyTorch 1.6 and later, the one before it, and TorchScript archives, as OpenAI's CLIP comes in. Of
all that a pickle can name, an ordered dict, a tensor, the plain storages and TorchScript's lists are allowed, and its modules
stand for their attributes alone; anything else is refused before it is called. A TorchScript archive's code is not read.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from mmjax.config import DataError

MAGIC = 0x1950A86A20F9469CFC6C  # what begins the older format
STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _Storage(NamedTuple):
    key: str
    dtype: Any
    size: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Module(dict):
    """An object of TorchScript, whatever its class: its attributes by name."""

    def __setstate__(self, attributes: Any) -> None:
        self.update(attributes if isinstance(attributes, dict) else {})


def _first(value: Any, *_: Any) -> Any:
    return value


ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch", "device"): _first,
    **{("torch.jit._pickle", f"build_{kind}list"): _first for kind in ("int", "double", "bool", "tensor")},
    ("torch.jit._pickle", "restore_type_tag"): _first,  # of typed lists and dicts
    **{("torch", name): name for name in STORAGES},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return _Module
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is no part of an array")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, size = pid[:5]
        if kind != "storage" or storage not in STORAGES:
            raise pickle.UnpicklingError(f"it refers to a {kind!r}")
        return _Storage(str(key), np.dtype(STORAGES[storage]), int(size))


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a state dict, by name; also of one that lies in a dict under "state_dict" or "model"; and those of a TorchScript
    archive, "visual.conv1.weight" being the attribute `weight` of `conv1` of `visual`.

    Raises:
        DataError: the file is not there, is truncated or no such file, or holds objects other than arrays.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            found, storages = (_zipped if zipfile.is_zipfile(file) else _older)(file)
        if isinstance(found, _Module):
            found = _flat(found)
        for name in ("state_dict", "model"):
            if isinstance(found, dict) and isinstance(found.get(name), dict):
                found = found[name]
        if not isinstance(found, dict):
            raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, not arrays by name")
        return {name: _array(value, storages) for name, value in found.items() if isinstance(value, _Tensor)}
    except FileNotFoundError:
        raise DataError(f"There are no weights {path}.") from None
    except Exception as error:  # of pickles and archives that are cut anywhere
        reason = str(error).strip() or type(error).__name__
        raise DataError(f"The weights {path} cannot be read: {reason}. Is the file complete?") from error


def _older(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    file.seek(0)
    if file.read(2) == b"PK":
        raise pickle.UnpicklingError("it is an archive without an end")
    file.seek(0)
    if _Unpickler(file).load() != MAGIC:
        raise pickle.UnpicklingError("it is no file of PyTorch's")
    _Unpickler(file).load()  # the protocol's version
    _Unpickler(file).load()  # the sizes of C's types
    found = _Unpickler(file).load()
    sizes = {view.storage.key: view.storage for view in _tensors(found)}
    storages = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        if key not in sizes or sizes[key].size != count:
            raise pickle.UnpicklingError(f"storage {key} has {count} elements")
        storages[key] = file.read(count * sizes[key].dtype.itemsize)
    return found, storages


def _zipped(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        found = _Unpickler(io.BytesIO(archive.read(pickled))).load()
        folder = pickled.removesuffix("data.pkl")
        return found, {key: archive.read(f"{folder}data/{key}") for key in {view.storage.key for view in _tensors(found)}}


def _tensors(found: Any) -> list[_Tensor]:
    if isinstance(found, _Tensor):
        return [found]
    return [view for value in found.values() for view in _tensors(value)] if isinstance(found, dict) else []


def _flat(module: _Module) -> dict[str, Any]:
    """Attributes of modules in modules, by dotted names."""
    out = {}
    for name, value in module.items():
        out |= {f"{name}.{inner}": x for inner, x in _flat(value).items()} if isinstance(value, _Module) else {name: value}
    return out


def _array(view: _Tensor, storages: dict[str, bytes]) -> np.ndarray:
    size = view.storage.dtype.itemsize
    flat = np.frombuffer(storages[view.storage.key], view.storage.dtype)
    last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    if 0 not in view.shape and not (len(flat) == view.storage.size and 0 <= view.offset <= last < len(flat)):
        raise pickle.UnpicklingError("an array is longer than its storage")
    strides = tuple(size * stride for stride in view.strides)
    return np.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, strides, writeable=False).copy()
