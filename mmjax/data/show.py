"""What a person is shown of a stream."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np

from mmjax.contract import Item
from mmjax.data.pp.audio import Waveform
from mmjax.data.pp.builder import Padded

LONGEST = 10  # seconds of a clip
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000)  # those of MPEG-2 and 2.5: higher ones would make a page large
CURVES = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75))  # RGB


def as_picture(value: Any) -> np.ndarray | None:
    """uint8 [H, W, 1 or 3] of an image as operations give it, in uint8 or in [-1, 1]; None if it is no picture."""
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.shape[2] not in (1, 3):
        return None
    return value if value.dtype == np.uint8 else np.clip((value.astype(np.float32) + 1) * 127.5, 0, 255).astype(np.uint8)


def curves(value: Any, height: int = 64, width: int = 128) -> np.ndarray | None:
    """A line a channel of a series [T, C], all on one scale, uint8 [height, width, 3]; None of what is none, or of too many channels."""
    series = value.value[value.valid] if isinstance(value, Padded) else value
    if not isinstance(series, np.ndarray) or series.ndim != 2 or series.dtype.kind != "f" or series.shape[1] > len(CURVES):
        return None
    picture = np.full((height, width, 3), 255, np.uint8)
    low, high = (series.min(), series.max()) if series.size else (0.0, 0.0)
    x = np.linspace(2, width - 3, len(series))
    y = height - 3 - (series - low) / max(high - low, 1e-9) * (height - 5)
    for channel, colour in zip(y.T, CURVES, strict=False):
        points = np.rint(np.stack([x, channel], axis=1)).astype(np.int32)
        cv2.polylines(picture, [points[:, None]], isClosed=False, color=colour, lineType=cv2.LINE_AA)
    return picture


def as_clip(clip: Waveform) -> bytes:
    """MP3, which every browser plays: mono, the first `LONGEST` seconds, at most 24 kHz; some 5 kB a second."""
    import soundfile
    import soxr

    samples, rate = clip.samples[: LONGEST * clip.rate], clip.rate
    known = next((r for r in MP3_RATES if r >= rate), MP3_RATES[-1])
    samples = samples if known == rate else soxr.resample(samples, rate, known)
    out = io.BytesIO()
    soundfile.write(out, np.clip(samples, -1, 1), known, format="MP3", bitrate_mode="VARIABLE", compression_level=0.7)
    return out.getvalue()


def as_item(value: Any, caption: str = "", *, side: int | None = None, **marks: Any) -> Item:
    """A text, a picture (no longer than `side`), a clip, a series as curves or, of anything else, its value or type and shape."""
    if isinstance(value, str):
        return Item("text", value, caption, **marks)
    if isinstance(value, Waveform):
        seconds = f"{len(value.samples) / value.rate:.1f} s"
        return Item("audio", as_clip(value), f"{caption}, {seconds}" if caption else seconds, **marks)
    if (drawn := curves(value, 96, 256)) is not None:
        return Item("series", _png(drawn), caption, **marks)
    picture = as_picture(value)
    if picture is None:
        array = value.value if isinstance(value, Padded) else np.asarray(value)
        return Item("text", str(array) if array.ndim == 0 else f"{array.dtype} {list(array.shape)}", caption, **marks)
    height, width, channels = picture.shape
    if side and max(height, width) > side:
        width, height = (max(1, length * side // max(height, width)) for length in (width, height))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, channels)
    return Item("image", _png(picture), caption, **marks)


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1].tobytes()
