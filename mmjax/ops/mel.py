"""Spectra of sound on the mel scale."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from mmjax.contract import BATCH_AXES

SCALES = ("htk", "slaney")


def hz_to_mel(hz: Float[np.ndarray, "*N"], scale: str) -> Float[np.ndarray, "*N"]:
    """HTK: 2595 log10(1 + f / 700) (O'Shaughnessy, 1987). Slaney (1998, Auditory Toolbox): linear up to 1 kHz, then logarithmic."""
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    return np.where(hz < 1_000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1_000) / 1_000) / np.log(6.4))


def mel_to_hz(mel: Float[np.ndarray, "*N"], scale: str) -> Float[np.ndarray, "*N"]:
    """The inverse of `hz_to_mel`."""
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, 200 * mel / 3, 1_000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


def mel_filters(
    rate: int, fft: int, mels: int, low: float = 0.0, high: float | None = None, scale: str = "slaney", norm: bool = True
) -> Float[np.ndarray, "K M"]:
    """Triangles evenly spaced on the mel scale over the K = fft / 2 + 1 frequencies; with `norm` of unit area (Slaney's).

    Raises:
        ValueError: an unknown scale, frequencies that are not in order, or more mels than the frequencies can tell apart.
    """
    high = rate / 2 if high is None else high
    if scale not in SCALES:
        raise ValueError(f"scale={scale!r} is unknown ({', '.join(SCALES)})")
    if not 0 <= low < high <= rate / 2:
        raise ValueError(f"low={low:g} and high={high:g} should be frequencies in order, up to half of the rate of {rate}")
    ends = hz_to_mel(np.array([low, high], np.float64), scale)
    edges = mel_to_hz(np.linspace(ends[0], ends[1], mels + 2), scale)
    frequencies = np.linspace(0, rate / 2, fft // 2 + 1)[:, None]
    up = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0, np.minimum(up, down))
    if not filters.any(axis=0).all():
        raise ValueError(
            f"{mels} mels are too many for {fft} samples at a rate of {rate}: some hear nothing. Take fewer, or a longer window"
        )
    return (filters * (2 / (edges[2:] - edges[:-2]) if norm else 1)).astype(np.float32)


def power_spectra(x: Float[Array, "B S"], window: int, hop: int, fft: int) -> Float[Array, "B T K"]:
    """|STFT|^2 of T = 1 + S // hop frames; frame t is around sample t * hop, beyond the ends is silence. Hann's window, periodic."""
    hann = np.zeros(fft, np.float32)
    start = (fft - window) // 2
    hann[start : start + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = 1 + x.shape[1] // hop
    x = jnp.pad(x, ((0, 0), (fft // 2, fft)))
    places = np.arange(frames)[:, None] * hop + np.arange(fft)[None, :]
    spectra = _rfft(x[:, places] * hann[None, None, :])
    return jnp.square(spectra.real) + jnp.square(spectra.imag)


def _rfft(x: Float[Array, "B T N"]) -> Array:
    """Over the last axis, every device its own rows: the partitioner would send all rows to all devices.

    Three times as fast on a CPU as the same by a matrix product.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return jnp.fft.rfft(x)
    rows = PartitionSpec(BATCH_AXES)
    return jax.shard_map(jnp.fft.rfft, in_specs=rows, out_specs=rows)(x)


def dct(size: int, coefficients: int) -> Float[np.ndarray, "M C"]:
    """The orthonormal discrete cosine transform II, its first coefficients."""
    n, k = np.arange(size)[:, None], np.arange(coefficients)[None, :]
    basis = np.sqrt(2 / size) * np.cos(np.pi * k * (2 * n + 1) / (2 * size))
    return np.where(k == 0, basis / np.sqrt(2), basis).astype(np.float32)


def decibels(power: Float[Array, "B T M"], top: float | None = None) -> Float[Array, "B T M"]:
    """10 log10, of at least 1e-10, and no more than `top` below the loudest of the clip."""
    found = 10 * jnp.log10(jnp.maximum(power, 1e-10))
    return found if top is None else jnp.maximum(found, jax.lax.stop_gradient(found.max(axis=(1, 2), keepdims=True)) - top)
