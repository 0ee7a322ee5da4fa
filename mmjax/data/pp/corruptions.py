"""What goes wrong with data, by degrees: for evaluation, where augmentations rest (`evals/noise.py` puts these into a pipeline).

Each takes its severity in a natural unit, and one value of it at which the input is returned as it is. What is random
is drawn from a generator that the example's own content seeds: examples differ, runs do not, and a higher severity is
more of the same.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from mmjax.data.pp.builder import Padded

BLOCKS = 20  # that a drop-out takes a share of


def blur(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """Gaussian blur of an image, its standard deviation a share of the shorter side; 0 changes nothing."""
    _between(share, 0, 1)

    def op(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, (0, 0), share * min(x.shape[:2])) if share else x

    return op


def pixel_noise(std: float) -> Callable[[np.ndarray], np.ndarray]:
    """Gaussian noise on every value of an image, `std` a share of the range from black to white; 0 changes nothing."""
    _between(std, 0, 10)

    def op(x: np.ndarray) -> np.ndarray:
        noise = _rng(x).standard_normal(x.shape, np.float32)
        return np.clip(np.rint(x + 255 * std * noise), 0, 255).astype(np.uint8) if std else x

    return op


def occlude(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """A grey square over a share of an image's area, as much of it as fits, at a random place; 0 changes nothing."""
    _between(share, 0, 1)

    def op(x: np.ndarray) -> np.ndarray:
        if not share:
            return x
        height, width = x.shape[:2]
        size = math.sqrt(share * height * width)
        h, w = (min(n, max(1, round(size))) for n in (height, width))
        at = _rng(x).random(2)
        top, left = (round(u * (n - k)) for u, n, k in zip(at, (height, width), (h, w), strict=True))
        out = x.copy()
        out[top : top + h, left : left + w] = 127
        return out

    return op


def jpeg(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    """An image as it comes back from a JPEG of that quality, 1 to 99; at 100 it is not compressed at all."""
    _between(quality, 1, 100)

    def op(x: np.ndarray) -> np.ndarray:
        if quality == 100:
            return x
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(x).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return op


def white_noise(snr: float) -> Callable[[Any], Any]:
    """White noise on a clip at a signal-to-noise ratio in dB: at 0 both have equal power, at 1e999 (infinite) nothing is changed."""

    def op(x: Any) -> Any:
        samples, valid = _samples(x)
        if math.isinf(snr) and snr > 0:
            return x
        drawn = np.where(valid, _rng(samples).standard_normal(len(samples), np.float32), 0)
        return _with(x, at_snr(np.where(valid, samples, np.float32(0)), drawn, snr))

    return op


def at_snr(samples: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Samples with noise added at a signal-to-noise ratio in dB: that of these very arrays. No noise adds none."""
    power, had = (np.sum(np.square(y, dtype=np.float64)) for y in (samples, noise))
    return samples + noise * np.float32(math.sqrt(power / had) * 10 ** (-snr / 20)) if had else samples


def silence(share: float) -> Callable[[Any], Any]:
    """Drop-outs: a share of a clip's 20 stretches is silent; 0 changes nothing."""
    _between(share, 0, 1)

    def op(x: Any) -> Any:
        samples, valid = _samples(x)
        return _with(x, np.where(_dropped(samples, valid, share), np.float32(0), samples)) if share else x

    return op


def typos(rate: float) -> Callable[[str], str]:
    """Each character is, with that probability, left out, doubled, swapped with the next or replaced; 0 changes nothing."""
    _between(rate, 0, 1)

    def op(x: str) -> str:
        if not rate:
            return x
        rng, out, chars = _rng(x), [], list(x)
        draws = [(rng.random(), int(rng.integers(4)), int(rng.integers(26))) for _ in chars]
        i = 0
        while i < len(chars):
            hit, how, letter = draws[i]
            if hit >= rate:
                out.append(chars[i])
            elif how == 1:
                out += [chars[i], chars[i]]
            elif how == 2 and i + 1 < len(chars):
                out += [chars[i + 1], chars[i]]
                i += 1
            elif how != 0:
                out.append(chr(ord("a") + letter))
            i += 1
        return "".join(out) if "".join(out).strip() else x

    return op


def lose_words(share: float) -> Callable[[str], str]:
    """Each word is left out with that probability, but never all of them; 0 changes nothing."""
    _between(share, 0, 1)

    def op(x: str) -> str:
        words = x.split()
        draws = _rng(x).random(len(words))
        kept = [word for word, u in zip(words, draws, strict=True) if u >= share]
        return (" ".join(kept) or words[int(draws.argmax())]) if share and words else x

    return op


def sensor_noise(std: float) -> Callable[[Any], Any]:
    """Gaussian noise on a series, `std` times each channel's own standard deviation over the window; 0 changes nothing."""
    _between(std, 0, 1_000)

    def op(x: Any) -> Any:
        value, valid = _steps(x)
        if not std or not valid.any():
            return x
        noise = _rng(value).standard_normal(value.shape, np.float32) * value[valid].std(axis=0, keepdims=True)
        return _with(x, np.where(valid[:, None], value + np.float32(std) * noise, value))

    return op


def drop_out(share: float) -> Callable[[Any], Any]:
    """A share of a series' 20 stretches reads 0 in all channels, as of a sensor that was off; 0 changes nothing."""
    _between(share, 0, 1)

    def op(x: Any) -> Any:
        value, valid = _steps(x)
        return _with(x, np.where(_dropped(value, valid, share)[:, None], np.float32(0), value)) if share else x

    return op


def _between(value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{value} should be from {low} to {high}")


def _rng(x: Any) -> np.random.Generator:
    """Seeded by the content."""
    return np.random.default_rng(zlib.crc32(x.encode() if isinstance(x, str) else np.ascontiguousarray(x).tobytes()))


def _samples(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """A clip's samples and which of them are real."""
    if isinstance(x, Padded):
        return x.value, x.valid
    if not hasattr(x, "samples"):
        raise ValueError(f"was given {type(x).__name__}, not a decoded clip: decode() comes before it")
    return x.samples, np.ones(len(x.samples), bool)


def _steps(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """A series' steps and which of them are real."""
    value, valid = x if isinstance(x, Padded) else (np.asarray(x, np.float32), np.ones(len(x), bool))
    return value, valid


def _with(x: Any, value: np.ndarray) -> Any:
    """`value` in the place of the array that `x` is, or holds."""
    if isinstance(x, Padded):
        return Padded(value, x.valid)
    return x._replace(samples=value) if hasattr(x, "samples") else value


def _dropped(value: np.ndarray, valid: np.ndarray, share: float) -> np.ndarray:
    """bool [T]: the steps of a share of the stretches of what is real; those of a lower share are among those of a higher."""
    block = (np.cumsum(valid) - 1) * BLOCKS // max(int(valid.sum()), 1)
    off = _rng(value).permutation(BLOCKS)[: round(share * BLOCKS)]
    return valid & np.isin(block, off)
