"""Arrays by name from wherever a checkpoint is: a file, a folder as hubs have them, or a name on the Hugging Face hub."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mmjax.config import DataError
from mmjax.weights import _torch_file

# In a folder, the first of these that there is; an index lists the files of a checkpoint in several.
NAMES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class Checkpoint:
    """Weights at `path`: a file, a folder, or a name on the hub, as in "openai/clip-vit-base-patch32".

    Raises:
        DataError: it is no name, and there is no such file or folder.
    """

    def __init__(self, path: str):
        _placed(path)
        self.path = path
        self._arrays: dict[str, np.ndarray] | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays, by the names on disk, read once; see `read`."""
        if self._arrays is None:
            self._arrays = read(self.path)
        return self._arrays

    def json(self, name: str) -> dict[str, Any]:
        """A file of settings beside them, such as "config.json"; {} where there is none."""
        file = folder_of(self.path) / name
        return json.loads(file.read_text()) if file.exists() else {}

    def heads(self, part: str) -> int | None:
        """How many heads the transformer of a part has, which its arrays do not show; None where no "config.json" says so."""
        told = self.json("config.json")
        told = told.get({"image": "vision_config", "text": "text_config"}.get(part.split("_")[0], ""), told)
        return next((told[k] for k in ("num_attention_heads", "n_head", "encoder_attention_heads") if k in told), None)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors`, `.npz`, or PyTorch file; of a folder that holds such a checkpoint; of `owner/name` on the hub.

    Raises:
        DataError: there is no such thing, it is damaged, or the hub cannot be reached.
    """
    place = _placed(path)
    if place is None:
        return _folder(_hub(str(path)))
    return _folder(place) if place.is_dir() else _file(place)


def _placed(path: str | Path) -> Path | None:
    """The file or folder, or None of a name on the hub."""
    place = Path(path).expanduser()
    if place.exists():
        return place
    if re.fullmatch(r"[\w-]+/[\w.-]+", str(path)) and place.suffix not in (".safetensors", ".npz", ".pt", ".pth", ".bin"):
        return None
    raise DataError(f"There are no weights {path}.")


def _folder(folder: Path) -> dict[str, np.ndarray]:
    for name in NAMES:
        if (folder / name).exists():
            return _file(folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return {key: x for file in files for key, x in _file(folder / file).items()}
    raise DataError(f"{folder} holds no checkpoint: none of {', '.join(NAMES)}.")


def _file(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".npz":
        return _npz(path)
    return _torch_file.read(path)


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors

    try:
        found = safetensors.deserialize(path.read_bytes())
        return {name: np.frombuffer(x["data"], DTYPES[x["dtype"]]).reshape(x["shape"]) for name, x in found}
    except FileNotFoundError:
        raise DataError(f"There are no weights {path}.") from None
    except Exception as error:  # of files that are cut anywhere
        raise DataError(f"The weights {path} cannot be read: {error}. Is the file complete?") from error


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no archive of arrays, or one without an end")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        raise DataError(f"The weights {path} cannot be read: {error}. Is the file complete?") from error


def folder_of(path: str | Path) -> Path:
    """The folder that a checkpoint's other files lie in, those of its tokenizer too."""
    place = _placed(path)
    return _hub(str(path)) if place is None else place if place.is_dir() else place.parent


def _hub(name: str) -> Path:
    """The folder that the hub's files of a name lie in, downloaded the first time."""
    from huggingface_hub import snapshot_download

    wanted = [
        *NAMES,
        *(f"{n}.index.json" for n in NAMES),
        "model-*.safetensors",
        "pytorch_model-*.bin",
        "*.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "tokenizer.model",
    ]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"There is no folder {name}, and the hub does not give {name!r} ({why}). Without a network, take the path of a checkpoint."
        ) from None
    return folder
