"""Operations on batches of images: [B, H, W, C] in [-1, 1] on the device. See `batch_pp/__init__.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.data.batch_pp._normalise import normalise as normalise


def keep_energy(share: float) -> KeepEnergy:
    """Leaves of every image what the fewest principal components of the training images hold that have `share` of their variance.

    With 0.25 three quarters of the energy are gone, as in AV-MNIST (Vielzeuf et al., 2018, sec. 4.1); 1 keeps all.
    The components are those of the training examples alone. For small images: it fits a matrix of (H W C)^2 numbers.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} should be above 0 and at most 1")
    return KeepEnergy(share)


class KeepEnergy:
    """See `keep_energy`."""

    def __init__(self, share: float):
        self.share = share

    def fit(self, examples: Iterable[tuple[Array, Any, Array]]) -> dict[str, Array]:
        """The mean image [D] and the projection on the components [D, D]."""
        count: Any = 0.0
        total: Any = 0.0
        square: Any = 0.0
        for x, _, present in examples:
            flat = jnp.where(present[:, None], x.reshape(len(x), -1), 0.0)
            count, total, square = count + present.astype(x.dtype).sum(), total + flat.sum(axis=0), square + flat.T @ flat
        mean = total / count
        values, vectors = jnp.linalg.eigh(square / count - jnp.outer(mean, mean))  # ascending
        values = jnp.maximum(values[::-1], 0.0)
        before = jnp.concatenate([jnp.zeros(1), jnp.cumsum(values)[:-1]]) / values.sum()
        kept = jnp.where((before < self.share * (1 - 1e-6))[None], vectors[:, ::-1], 0.0)
        return {"mean": mean, "projection": kept @ kept.T}

    def __call__(self, x: Float[Array, "B H W C"], valid: Any, present: Any, key: Any, fitted: dict[str, Array]) -> tuple[Array, Any]:
        """`x` on the plane of the components, `valid` as it is."""
        flat = x.reshape(len(x), -1) - fitted["mean"][None]
        return (flat @ fitted["projection"] + fitted["mean"][None]).reshape(x.shape), valid


def standardise(mean: Sequence[float], std: Sequence[float]) -> Callable[..., tuple[Array, Any]]:
    """Less a mean and over a deviation of each channel, as of values from 0 to 1: how a published encoder saw its images."""
    if len(mean) != len(std) or min(std) <= 0:
        raise ValueError(f"mean={mean} and std={std} should have a number for each channel, those of std above 0")

    def op(x: Float[Array, "B H W C"], valid: Any, present: Any, key: Any) -> tuple[Array, Any]:
        of, by = (jnp.asarray(a, x.dtype).reshape(1, 1, 1, -1) for a in (mean, std))
        return ((x + 1) / 2 - of) / by, valid

    return op
