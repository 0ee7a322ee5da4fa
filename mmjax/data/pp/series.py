"""Operations on series: numbers [T, C] on the host, a row a sample and a column a channel. See `pp/builder.py` for how a string names them.

What is not finite is an error in every operation but `finite`, which says what becomes of it instead. The augmentations
are those of Um et al., 2017, 'Data augmentation of wearable sensor data for Parkinson's disease monitoring using
convolutional neural networks'.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from mmjax.config import ConfigError, DataError
from mmjax.data.pp.builder import Padded
from mmjax.data.pp.corruptions import drop_out as drop_out
from mmjax.data.pp.corruptions import sensor_noise as sensor_noise

Op: TypeAlias = Callable[..., Any]
FINITE = ("error", "skip", "gap")


def _series(x: Any) -> Padded:
    """A series and which of its samples are valid: all, where it does not say.

    Raises:
        ConfigError: it has other axes.
        DataError: something in it is not finite.
    """
    value, valid = _parts(x)
    if not np.isfinite(value).all():
        raise DataError(
            f"{_where(value)}. Begin the operations with finite('skip') to leave such examples out, or finite('gap') to mark such samples."
        )
    return Padded(value, valid)


def _parts(x: Any) -> Padded:
    if isinstance(x, Padded):
        return x
    value = np.asarray(x, np.float32)
    if value.ndim != 2:
        raise ConfigError(f"A series should be [T, C], samples and channels, not {list(value.shape)}.")
    return Padded(value, np.ones(len(value), bool))


def _where(value: np.ndarray) -> str:
    sample, channel = np.argwhere(~np.isfinite(value))[0]
    return f"The series is {value[sample, channel]} at sample {sample} of {len(value)}, channel {channel}"


def _like(x: Any, series: Padded) -> Any:
    """An array for an array: only what has gaps or padding says what is valid."""
    return series if isinstance(x, Padded) else series.value


def finite(policy: str = "error") -> Op:
    """What becomes of NaN and infinite numbers.

    "error" stops the run and says where; "skip" leaves the example out, which is counted as unreadable; "gap" makes the
    samples invalid, holding the last finite number of the channel in their place (or the first that comes), and the
    stream absent where no sample is left.
    """
    if policy not in FINITE:
        raise ValueError(f"the policy {policy!r} should be one of {', '.join(FINITE)}")

    def op(x: Any) -> Any:
        value, valid = _parts(x)
        known = np.isfinite(value)
        if policy == "gap":
            valid = valid & known.all(axis=1)
            return Padded(_held(value, known), valid) if valid.any() else None
        if known.all():
            return x
        raise (DataError if policy == "error" else ValueError)(_where(value))

    return op


def _held(value: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The last known number of each channel at every sample; before the first of them, that."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(value))[:, None], -1), axis=0)
    last = np.where(last < 0, known.argmax(axis=0), last)
    held = np.take_along_axis(value, last, axis=0)
    return np.where(np.isfinite(held), held, np.float32(0))  # a channel that has none at all


def resample(old: float, new: float) -> Op:
    """From `old` samples a second to `new`, with a low-pass filter against aliasing. Validity is that of the sample before."""
    if old <= 0 or new <= 0:
        raise ValueError(f"the rates {old} and {new} should be above 0")
    ratio = Fraction(new / old).limit_denominator(1_000)

    def op(x: Any) -> Any:
        from scipy.signal import resample_poly

        value, valid = _series(x)
        found = resample_poly(value, ratio.numerator, ratio.denominator, axis=0, padtype="edge").astype(np.float32)
        nearest = np.minimum(np.arange(len(found)) * ratio.denominator // ratio.numerator, len(value) - 1)
        return _like(x, Padded(found, valid[nearest]))

    return op


def window(length: int) -> Op:
    """`length` samples, from a random start; those in the middle in evaluation. A shorter series ends in padding that is not valid.

    Absent is what has no valid sample there. Streams draw on their own: series of the same moments are not cut alike.
    """
    if length < 1:
        raise ValueError(f"the length {length} should be at least 1")

    def op(x: Any, rng: np.random.Generator | None) -> Padded | None:
        value, valid = _series(x)
        spare = max(0, len(value) - length)
        start = spare // 2 if rng is None else int(rng.integers(spare + 1))
        value, valid = value[start : start + length], valid[start : start + length]
        if not valid.any():
            return None
        after = length - len(value)
        return Padded(np.pad(value, ((0, after), (0, 0))), np.pad(valid, (0, after)))

    return op


def jitter(std: float) -> Op:
    """Normal noise of standard deviation `std`, in the series' own unit, on every number (Um et al., 2017, sec. 3)."""

    def op(x: Any, rng: np.random.Generator | None) -> Any:
        value, valid = _series(x)
        if rng is None:
            return x
        return _like(x, Padded(value + np.float32(std) * rng.standard_normal(value.shape, np.float32), valid))

    return op


def scale(std: float) -> Op:
    """Every channel times a factor drawn from a normal distribution around 1 (Um et al., 2017, sec. 3)."""

    def op(x: Any, rng: np.random.Generator | None) -> Any:
        value, valid = _series(x)
        if rng is None:
            return x
        return _like(x, Padded(value * rng.normal(1, std, value.shape[1]).astype(np.float32), valid))

    return op


def statistics() -> Op:
    """Of every channel mean, standard deviation, least, greatest and mean absolute step, float32 [5 * C]: a baseline's features."""

    def op(x: Any) -> np.ndarray:
        value, valid = _series(x)
        value = value[valid]
        steps = np.abs(np.diff(value, axis=0)) if len(value) > 1 else np.zeros_like(value)
        return np.concatenate([value.mean(axis=0), value.std(axis=0), value.min(axis=0), value.max(axis=0), steps.mean(axis=0)])

    return op
