"""Examples without any data, for what depends on shapes alone: how much memory a training step takes, for one.

What operations make of an example has the same shape whatever its photograph, recording or text, if they begin with the file,
or the text, itself, and make it one size.
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
# How operations begin that take these, and those of which one makes the shape the same for all.
FIRST = {"image": "decode", "audio": "decode"}
SIZING = {
    "image": ("resize", "central_crop", "random_crop", "random_resized_crop", "decode_random_resized_crop"),
    "audio": ("crop_or_pad",),
    "text": ("tokens",),
    "label": ("index",),
}


def stands_in(stream: str, pp: str) -> bool:
    """Whether what a stream's operations give has one shape whatever the data.

    Raises:
        ConfigError: as `parse`.
    """
    names = [name for name in parse(pp, stream, {"tokenizer": None, "classes": None}).names if name != "choose"]
    of_kind = kind(stream)
    return of_kind in MADE and names[:1] != [] and names[0].startswith(FIRST.get(of_kind, "")) and bool({*names} & {*SIZING[of_kind]})


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
