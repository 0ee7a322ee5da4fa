"""Examples without any data: for what depends on shapes alone, such as how much memory a training step takes.

What operations make of an example has the same shape whatever the photograph or the text, as long as they begin with
what anybody's files are: encoded images or recordings, texts, the number of a class, a number.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.contract import kind


def _image() -> bytes:
    import cv2

    return cv2.imencode(".png", np.zeros((600, 800, 3), np.uint8))[1].tobytes()


def _audio() -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000, np.float32), 16_000, format="WAV")
    return file.getvalue()


MADE = {"image": _image, "audio": _audio, "text": lambda: "a stand-in", "label": lambda: 0, "value": lambda: 0.0}


class StandIn:
    """A split of `size` examples that are all the same, with the given streams."""

    def __init__(self, split: str, pp: Mapping[str, str], size: int = 1):
        self.size, self.fingerprint = size, "stand_in"
        self._example = {stream: MADE[kind(stream)]() for stream in pp}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {**self._example, "key": index}

    def describe(self) -> dict[str, Any]:
        """Nothing."""
        return {}
