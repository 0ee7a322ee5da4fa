"""Operations on audio: encoded bytes or samples, down to a waveform of one length. See `pp/builder.py`.

Between `decode` and `crop_or_pad` a clip is a `Waveform`, mono samples with their rate, so that all times are in seconds:

    choose("fr")|decode(16_000)|speed(0.9, 1.1)|noise(10, 40)|crop_or_pad(3)

Spectra are made on the device: `batch_pp/audio.py`.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from mmjax.data.pp._choose import choose as choose
from mmjax.data.pp.builder import Padded
from mmjax.data.pp.corruptions import at_snr
from mmjax.data.pp.corruptions import silence as silence
from mmjax.data.pp.corruptions import white_noise as white_noise

Op: TypeAlias = Callable[..., Any]
Samples = Float[np.ndarray, " _"]  # of any length


class Waveform(NamedTuple):
    """A mono clip: samples in [-1, 1], and how many there are in a second."""

    samples: Samples
    rate: int


def decode(rate: int = 16_000, *, given: int | None = None, resample: bool = True, mix: bool = True) -> Op:
    """Encoded bytes (WAV, FLAC, Ogg, MP3), a `Waveform`, or an array [S] or [S, C] of samples, as a mono clip of `rate`.

    An array says nothing of its rate: it is `given`. Signed integers are scaled by their type. Another rate is resampled (soxr,
    'HQ': a windowed sinc), several channels are averaged.

    Raises, for the item:
        ValueError: no audio, cut short, no samples, not finite; an array without `given`; another rate with
            `resample=False`, several channels with `mix=False`.
    """
    _positive(rate=rate, given=1 if given is None else given)

    def op(x: Any) -> Waveform:
        samples, found = _read(x, given)
        if samples.ndim == 2 and samples.shape[1] > 1 and not mix:
            raise ValueError(f"the clip has {samples.shape[1]} channels, not one, and decode(mix=False) was asked for")
        samples = samples.mean(axis=1) if samples.ndim == 2 else samples
        if not np.isfinite(samples).all():
            raise ValueError("the clip has samples that are not finite")
        if found != rate and not resample:
            raise ValueError(f"the clip has {found} samples a second, not {rate}, and decode(resample=False) was asked for")
        samples = _resampled(samples, found, rate)
        if not len(samples):  # or so few that none is left at a lower rate
            raise ValueError("the clip has no samples")
        return Waveform(samples, rate)

    return op


def crop_or_pad(seconds: float, *, repeat: bool = False) -> Op:
    """float32 [S] of so many seconds: a stretch of a longer clip (drawn; the middle in evaluation), or zeros behind, not valid.

    With `repeat` a shorter clip stands there as often as it fits, and the silence behind it is valid, too: what CLAP was given.
    """
    _positive(seconds=seconds)

    def op(x: Any, rng: np.random.Generator | None) -> Padded:
        samples, length = _waveform(x, "crop_or_pad").samples, round(seconds * x.rate)
        samples = np.tile(samples, max(length // len(samples), 1)) if repeat else samples
        spare = max(len(samples) - length, 0)
        start = spare // 2 if rng is None else int(rng.integers(spare + 1))
        value = np.zeros(length, np.float32)
        value[: len(samples)] = samples[start : start + length]
        return Padded(value, np.arange(length) < (length if repeat else len(samples)))

    return op


def normalise_loudness(db: float = -23.0, peak: float = -1.0) -> Op:
    """The mean power to `db` and no sample above `peak`, both in dB of full scale. Silence stays silence."""

    def op(x: Any) -> Waveform:
        samples = _waveform(x, "normalise_loudness").samples
        power, highest = float(np.mean(np.square(samples, dtype=np.float64))), float(np.abs(samples).max())
        if power == 0:
            return x
        factor = min(10 ** (db / 20) / math.sqrt(power), 10 ** (peak / 20) / highest)
        return x._replace(samples=(samples * factor).astype(np.float32))

    return op


def not_silent(db: float = -60.0, otherwise: str = "absent") -> Op:
    """A clip whose loudest sample is below `db` (of full scale) is "absent", or an "error" of the item, which is counted."""
    if otherwise not in ("absent", "error"):
        raise ValueError(f"otherwise={otherwise!r} should be 'absent' or 'error'")

    def op(x: Any) -> Waveform | None:
        if np.abs(_waveform(x, "not_silent").samples).max() >= 10 ** (db / 20):
            return x
        if otherwise == "error":
            raise ValueError(f"the clip is silent: nothing is above {db:g} dB")
        return None

    return op


def gain(low: float = -6.0, high: float = 6.0) -> Op:
    """Louder or softer by a number of dB drawn from `low` to `high`."""

    def op(x: Any, rng: np.random.Generator | None) -> Waveform:
        samples = _waveform(x, "gain").samples
        return x if rng is None else x._replace(samples=samples * np.float32(10 ** (rng.uniform(low, high) / 20)))

    return op


def time_shift(seconds: float) -> Op:
    """Later or earlier by up to so many seconds; what leaves is lost, zeros come in, the length stays."""

    def op(x: Any, rng: np.random.Generator | None) -> Waveform:
        samples = _waveform(x, "time_shift").samples
        if rng is None:
            return x
        by = int(np.clip(round(rng.uniform(-seconds, seconds) * x.rate), -len(samples), len(samples)))
        shifted = np.zeros_like(samples)
        shifted[max(by, 0) : len(samples) + min(by, 0)] = samples[max(-by, 0) : len(samples) - max(by, 0)]
        return x._replace(samples=shifted)

    return op


def speed(low: float = 0.9, high: float = 1.1) -> Op:
    """Played faster by a factor drawn from `low` to `high`, pitch and all (Ko et al., 2015, 'Audio Augmentation', sec. 2)."""
    _positive(low=low, high=high)

    def op(x: Any, rng: np.random.Generator | None) -> Waveform:
        samples = _waveform(x, "speed").samples
        return x if rng is None else x._replace(samples=_resampled(samples, x.rate * rng.uniform(low, high), x.rate))

    return op


def pitch(semitones: float = 2.0) -> Op:
    """Higher or lower by up to so many semitones, as long as before: stretched by a phase vocoder, then resampled."""

    def op(x: Any, rng: np.random.Generator | None) -> Waveform:
        samples = _waveform(x, "pitch").samples
        if rng is None or len(samples) < 2 * _WINDOW:
            return x
        factor = 2 ** (rng.uniform(-semitones, semitones) / 12)
        shifted = _resampled(_stretched(samples, factor), x.rate * factor, x.rate)[: len(samples)]
        return x._replace(samples=np.pad(shifted, (0, len(samples) - len(shifted))))

    return op


def noise(low: float, high: float | None = None) -> Op:
    """White noise at a signal-to-noise ratio in dB, drawn from `low` to `high`: at 0 both have equal power, `inf` changes nothing.

    The ratio is that of this very noise, not of its distribution. A silent clip stays as it is.
    """
    high = low if high is None else high

    def op(x: Any, rng: np.random.Generator | None) -> Waveform:
        samples = _waveform(x, "noise").samples
        if rng is None or math.isinf(high):
            return x
        drawn = rng.standard_normal(len(samples), np.float32)
        return x._replace(samples=at_snr(samples, drawn, rng.uniform(low, high)))

    return op


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value} should be above 0")


def _waveform(x: Any, name: str) -> Waveform:
    if not isinstance(x, Waveform):
        raise ValueError(f"{name}() was given {type(x).__name__}, not a decoded clip: decode() comes before it, crop_or_pad() behind")
    return x


def _read(x: Any, given: int | None) -> tuple[np.ndarray, int]:
    """float32 samples [S] or [S, C], and their rate."""
    if isinstance(x, Waveform):
        return x
    if isinstance(x, bytes):
        import soundfile

        if missing := _cut_short(x):
            raise ValueError(f"the clip is cut short: {missing}")
        try:
            with soundfile.SoundFile(io.BytesIO(x)) as file:
                samples, rate, frames, kind = file.read(dtype="float32"), file.samplerate, file.frames, file.format
        except Exception as error:  # soundfile's own, and whatever its decoders raise
            raise ValueError(f"no audio that can be read ({error})") from None
        if kind == "MP3" and _COUNTED.search(x, 0, 4_096) and len(samples) + 1_152 < frames:
            raise ValueError(f"the clip is cut short: {len(samples):,} of {frames:,} samples are there")
        return samples, rate
    if not isinstance(x, np.ndarray) or x.ndim not in (1, 2):
        raise ValueError(f"{type(x).__name__} is neither encoded audio nor samples [S] or [S, C]; of several clips choose() takes one")
    if given is None:
        raise ValueError("samples in an array have no rate of their own: say it, as in decode(16_000, given=44_100)")
    if x.ndim == 2 and x.shape[1] > x.shape[0]:
        raise ValueError(f"samples of shape {x.shape} seem to have their channels first: they should be [S, C]")
    if not np.issubdtype(x.dtype, np.floating) and not np.issubdtype(x.dtype, np.signedinteger):
        raise ValueError(f"samples are floats in [-1, 1] or signed integers, not {x.dtype}")
    scale = np.float32(1.0 if np.issubdtype(x.dtype, np.floating) else -float(np.iinfo(x.dtype).min))
    return x.astype(np.float32) / scale, given


_COUNTED = re.compile(rb"Xing|Info")  # the frame of an MP3 that says how many there are


def _cut_short(x: bytes) -> str:
    """Why a WAV or Ogg file is not whole, which their reader keeps to itself; '' if nothing is missing."""
    if x[:4] == b"RIFF":
        place = 12
        while place + 8 <= len(x):
            name, size = struct.unpack_from("<4sI", x, place)
            if name == b"data":
                whole = size in (0, 2**32 - 1) or place + 8 + size <= len(x)  # 0 and -1: written to a pipe, and not known
                return "" if whole else f"{len(x) - place - 8:,} of {size:,} bytes of samples are there"
            place += 8 + size + size % 2
        return "no samples are there"
    if x[:4] == b"OggS":
        last = x.rfind(b"OggS")
        header = x[last : last + 27]
        whole = len(header) == 27 and header[5] & 4 and len(x) >= last + 27 + header[26] + sum(x[last + 27 : last + 27 + header[26]])
        return "" if whole else "its last page is not there"
    return ""


def _resampled(samples: Samples, have: float, want: int) -> Samples:
    """The same sound at another rate."""
    if have == want:
        return samples.astype(np.float32)
    import soxr

    return np.asarray(soxr.resample(samples.astype(np.float32), have, want, quality="HQ"), np.float32)


_WINDOW, _HOP = 1_024, 256


def _stretched(samples: Samples, factor: float) -> Samples:
    """As long as `factor` says, at the same pitch: a phase vocoder (Laroche & Dolson, 1999, sec. II)."""
    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    padded = np.pad(samples, _WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * window
    spectra = np.fft.rfft(frames, axis=1)
    times = np.arange(0, len(spectra) - 1, 1 / factor)
    place = times.astype(int)
    between = (times - place)[:, None]
    magnitude = (1 - between) * np.abs(spectra[place]) + between * np.abs(spectra[place + 1])
    expected = 2 * np.pi * _HOP * np.arange(spectra.shape[1]) / _WINDOW
    advance = np.angle(spectra[place + 1]) - np.angle(spectra[place]) - expected
    advance = expected + advance - 2 * np.pi * np.round(advance / (2 * np.pi))
    phase = np.angle(spectra[0]) + np.concatenate([np.zeros((1, spectra.shape[1])), np.cumsum(advance, axis=0)[:-1]])
    new = np.fft.irfft(magnitude * np.exp(1j * phase), _WINDOW, axis=1) * window
    out, weight = (np.zeros(len(new) * _HOP + _WINDOW) for _ in range(2))
    for i, frame in enumerate(new):
        out[i * _HOP : i * _HOP + _WINDOW] += frame
        weight[i * _HOP : i * _HOP + _WINDOW] += window**2
    first = round(_WINDOW * factor)
    return (out / np.maximum(weight, 1e-3))[first : first + round(len(samples) * factor)].astype(np.float32)
