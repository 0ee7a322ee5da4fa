"""Encodings of a split on disk: one safetensors file, whole or not at all, called by a fingerprint of all that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmjax.config import DataError
from mmjax.contract import write_atomic


class Encoded(NamedTuple):
    """Arrays of all rows by their names in a batch, and the items that could not be encoded, with the reason."""

    arrays: dict[str, np.ndarray]
    unreadable: dict[int, str]


def load(path: Path) -> Encoded | None:
    """What `save` stored, or None.

    Raises:
        DataError: the file is damaged.
    """
    from safetensors import safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            unreadable = {int(i): why for i, why in json.loads(file.metadata()["unreadable"]).items()}
            return Encoded({name: file.get_tensor(name) for name in file.keys()}, unreadable)  # noqa: SIM118 - it is no dict
    except Exception as error:  # of a file that is cut anywhere
        raise DataError(f"The encodings {path} cannot be read ({error}). Delete the file: they are made again.") from None


def save(path: Path, arrays: Mapping[str, np.ndarray], unreadable: Mapping[int, str]) -> None:
    """Stores them.

    Raises:
        DataError: they cannot be written; nothing is left behind.
    """
    from safetensors.numpy import save as packed

    content = packed({name: np.ascontiguousarray(x) for name, x in arrays.items()}, {"unreadable": json.dumps(unreadable)})
    try:
        write_atomic(path, content)
    except OSError as error:
        raise DataError(f"Encodings cannot be stored in {path.parent}: {error.strerror}. Take another data.encoded_in.") from None
