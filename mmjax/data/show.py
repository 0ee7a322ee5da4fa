"""What a person is shown of a stream."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from mmjax.contract import Item
from mmjax.data.pp.builder import Padded


def as_picture(value: Any) -> np.ndarray | None:
    """uint8 [H, W, 1 or 3] of an image as operations give it, in uint8 or in [-1, 1]; None if it is no picture."""
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.shape[2] not in (1, 3):
        return None
    return value if value.dtype == np.uint8 else np.clip((value.astype(np.float32) + 1) * 127.5, 0, 255).astype(np.uint8)


def as_item(value: Any, caption: str = "", *, side: int | None = None, **marks: Any) -> Item:
    """A text, a picture (no longer than `side`) or, of anything else, its value or type and shape, as an item of a report."""
    if isinstance(value, str):
        return Item("text", value, caption, **marks)
    picture = as_picture(value)
    if picture is None:
        array = value.value if isinstance(value, Padded) else np.asarray(value)
        return Item("text", str(array) if array.ndim == 0 else f"{array.dtype} {list(array.shape)}", caption, **marks)
    height, width, channels = picture.shape
    if side and max(height, width) > side:
        width, height = (max(1, length * side // max(height, width)) for length in (width, height))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, channels)
    return Item("image", cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1].tobytes(), caption, **marks)
