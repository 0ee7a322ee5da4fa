"""Examples without any data, for what depends on shapes alone: how much memory a training step takes, for one.

What operations make of an example has the same shape whatever its photograph, recording or text, as long as they begin with
the file, or the text, itself.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.contract import kind
from mmjax.data.pp.builder import parse


def _image() -> bytes:
    import cv2

    return cv2.imencode(".png", np.zeros((600, 800, 3), np.uint8))[1].tobytes()


def _audio() -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.full(16_000, 0.1), 16_000, format="WAV")
    return file.getvalue()


MADE = {"image": _image, "audio": _audio, "text": lambda: "a text", "label": lambda: 0}


def stands_in(stream: str, pp: str) -> bool:
    """Whether what a stream's operations give has the shape that it has for any data.

    Raises:
        ConfigError: as `parse`.
    """
    names = [name for name in parse(pp, stream, {"tokenizer": None, "classes": None}).names if name != "choose"]
    first = {"image": "decode", "audio": "decode", "text": "", "label": "index"}.get(kind(stream))
    return first is not None and bool(names) and names[0].startswith(first) and (kind(stream) != "text" or "tokens" in names)


class StandIn:
    """A split of one example, with the streams that `pp` names."""

    fingerprint = "stand_in"

    def __init__(self, split: str, pp: Mapping[str, str]):
        self._example = {stream: MADE[kind(stream)]() for stream in pp}

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._example

    def describe(self) -> dict[str, Any]:
        """Nothing."""
        return {}
