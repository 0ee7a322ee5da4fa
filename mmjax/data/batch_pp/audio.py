"""Operations on batches of audio: waveforms [B, S] or features [B, T, F] on the device. See `batch_pp/__init__.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.data.batch_pp._normalise import normalise as normalise
from mmjax.ops.masks import zero_where_not
from mmjax.ops.mel import dct, decibels, mel_filters, power_spectra

Op: TypeAlias = Callable[..., tuple[Array, Array]]


def log_mel(
    mels: int = 80,
    *,
    rate: int = 16_000,
    window: float = 0.025,
    hop: float = 0.01,
    fft: int | None = None,
    low: float = 0.0,
    high: float | None = None,
    scale: str = "slaney",
    norm: bool = True,
    floor: float = 1e-6,
    db: bool = False,
) -> Op:
    """Waveforms [B, S] to the natural logarithm of mel power [B, T, mels], T = 1 + S // hop.

    `window` and `hop` are in seconds, `fft` in samples (the next power of two). Filters as librosa's by default;
    `scale="htk", norm=False` are torchaudio's. Powers below `floor` count as that; `db` is in decibels instead. A frame is valid
    up to the one around the last sample, as if the clip were read alone; what is not valid is silence, and its frames are 0.
    """
    spectra, unit = _mel_power(mels, rate, window, hop, fft, low, high, scale, norm), 10 / math.log(10) if db else 1.0

    def op(x: Float[Array, "B S"], valid: Bool[Array, "B S"], present: Bool[Array, " B"], key: Array | None) -> tuple[Array, Array]:
        power, frames = spectra(x, valid, present)
        return zero_where_not(frames, unit * jnp.log(jnp.maximum(power, floor))), frames

    return op


def mfcc(
    coefficients: int = 13,
    *,
    mels: int = 80,
    rate: int = 16_000,
    window: float = 0.025,
    hop: float = 0.01,
    fft: int | None = None,
    low: float = 0.0,
    high: float | None = None,
    scale: str = "slaney",
    norm: bool = True,
    top_db: float | None = 80.0,
) -> Op:
    """Waveforms [B, S] to mel-frequency cepstral coefficients [B, T, coefficients] (Davis & Mermelstein, 1980).

    The orthonormal DCT-II of the mel power in dB, of which no more than `top_db` below the clip's loudest counts. The
    other arguments are `log_mel`'s.
    """
    spectra, basis = _mel_power(mels, rate, window, hop, fft, low, high, scale, norm), dct(mels, coefficients)

    def op(x: Float[Array, "B S"], valid: Bool[Array, "B S"], present: Bool[Array, " B"], key: Array | None) -> tuple[Array, Array]:
        power, frames = spectra(x, valid, present)
        found = jnp.einsum("btm,mc->btc", decibels(zero_where_not(frames, power), top_db), basis, precision="highest")
        return zero_where_not(frames, found), frames

    return op


def _mel_power(mels, rate, window, hop, fft, low, high, scale, norm) -> Callable[..., tuple[Array, Array]]:
    length, step = round(window * rate), round(hop * rate)
    if length < 2 or step < 1:
        raise ValueError(f"window={window:g} and hop={hop:g} are seconds: of {rate} samples a second they hold {length} and {step}")
    fft = 1 << (length - 1).bit_length() if fft is None else fft
    if fft < length:
        raise ValueError(f"fft={fft} is shorter than the window of {length} samples")
    filters = mel_filters(rate, fft, mels, low, high, scale, norm)

    def power(x: Array, valid: Array, present: Array) -> tuple[Float[Array, "B T M"], Bool[Array, "B T"]]:
        if x.ndim != 2:
            raise ValueError(f"spectra are of waveforms [B, S], not of {x.shape}")
        valid = valid & present[:, None]
        found = jnp.einsum("btk,km->btm", power_spectra(zero_where_not(valid, x), length, step, fft), filters, precision="highest")
        count = valid.sum(axis=1)
        return found, (jnp.arange(found.shape[1])[None, :] <= (count // step)[:, None]) & (count > 0)[:, None]

    return power


def spec_augment(masks: int = 2, time: int = 20, frequency: int = 10, *, share: float = 0.5) -> Op:
    """Stripes of features [B, T, F] replaced by the clip's mean (Park et al., 2019, 'SpecAugment', sec. 2), in training.

    `masks` stripes over up to `time` frames (and up to `share` of the clip's), and as many over up to `frequency` channels.
    """

    def op(x: Float[Array, "B T F"], valid: Bool[Array, "B T"], present: Bool[Array, " B"], key: Array | None) -> tuple[Array, Array]:
        if key is None:
            return x, valid
        frames = (valid & present[:, None]).sum(axis=1).astype(jnp.float32)
        clean = zero_where_not(valid & present[:, None], x)
        mean = clean.sum(axis=(1, 2)) / jnp.maximum(frames * x.shape[2], 1)
        over_time = _stripes(jax.random.fold_in(key, 0), masks, frames, jnp.minimum(time, share * frames), x.shape[1])
        channels = jnp.full(x.shape[0], x.shape[2], jnp.float32)
        over_frequency = _stripes(jax.random.fold_in(key, 1), masks, channels, jnp.minimum(frequency, channels), x.shape[2])
        return jnp.where(over_time[:, :, None] | over_frequency[:, None, :], mean[:, None, None], clean), valid

    return op


def _stripes(key: Array, count: int, length: Float[Array, " B"], widest: Float[Array, " B"], size: int) -> Bool[Array, "B size"]:
    """Where `count` stripes are: of a width from 0 to `widest`, anywhere within `length`."""
    draws = jax.random.uniform(key, (2, count, len(length), 1))
    width = jnp.floor(draws[0] * (widest[None, :, None] + 1))
    start = jnp.floor(draws[1] * jnp.maximum(length[None, :, None] - width + 1, 1))
    place = jnp.arange(size, dtype=jnp.float32)[None, None, :]
    return ((place >= start) & (place < start + width)).any(axis=0)
