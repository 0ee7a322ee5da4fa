"""Correlation between modalities: Andrew et al., 2013, 'Deep Canonical Correlation Analysis', sec. 3."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmjax import contract
from mmjax.config import ConfigError, nearest
from mmjax.contract import Batch, Context, Loss, Outputs
from mmjax.ops.masks import zero_where_not


class Cca:
    """A term for each pair of modalities: minus the mean of their first canonical correlations, over the rows that have both.

    The encodings are the outputs `<m>/pooled` [B, D]. Correlations are those of the batch, so batches should have several
    times as many rows as `components`; `ridge` keeps those of few rows from being 1 (their r_x and r_y).

    Args:
        pairs: [(m, n), ...], or "all".
        components: how many correlations count.
        ridge: what is added to the variances, relative to their mean.
    """

    batch_wise = True

    def __init__(self, pairs: str | Sequence[Sequence[str]] = "all", components: int = 8, ridge: float = 0.1):
        if components < 1 or ridge <= 0:
            raise ConfigError(f"cca: components={components} should be at least 1, and ridge={ridge} above 0.")
        self.pairs, self.components, self.ridge = pairs, components, ridge

    def _pairs(self, outputs: Outputs) -> list[tuple[str, str]]:
        known = sorted(name.removesuffix("/pooled") for name in outputs if name.endswith("/pooled") and not name.startswith("fused"))
        if self.pairs == "all":
            return list(combinations(known, 2))
        for m in (m for pair in self.pairs for m in pair):
            if m not in known:
                raise ConfigError(f"cca.pairs: the model encodes no {m!r}.{nearest(m, known)}")
        return [(pair[0], pair[1]) for pair in self.pairs]

    def init(self, key: PRNGKeyArray, batch: Batch, outputs: Outputs) -> tuple[dict[str, Array], tuple]:
        """Nothing of its own.

        Raises:
            ConfigError: there are no two modalities, or not those that `pairs` names.
        """
        if not self._pairs(outputs):
            raise ConfigError("cca: the model encodes fewer than two modalities, which have nothing to correlate.")
        return {}, ()

    def __call__(self, ctx: Context, outputs: Outputs, batch: Batch) -> Loss:
        """Terms `<m>_<n>`, each between -1 and 0; 0 where fewer than two rows have both."""
        terms, weight = {}, jnp.zeros(())
        for m, n in self._pairs(outputs):
            here = contract.present(batch, m) & contract.present(batch, n)
            found = correlations(outputs[f"{m}/pooled"], outputs[f"{n}/pooled"], here, self.ridge)[: self.components]
            terms[f"{m}_{n}"] = -found.mean()
            weight = jnp.maximum(weight, here.sum().astype(jnp.float32))
        return Loss(terms, weight)

    @classmethod
    def tiny(cls) -> tuple[Cca, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the model's outputs beside the streams."""
        rng = np.random.default_rng(0)
        batch = {f"{m}/pooled": rng.normal(size=(8, 3)).astype(np.float32) for m in ("series_a", "series_b")}
        return cls(components=2), batch | {
            "series_a": np.ones((8, 2), np.float32), "series_b": np.ones((8, 2), np.float32), "series_a/present": np.arange(8) != 3,
        }  # fmt: skip


def correlations(x: Float[Array, "B D"], y: Float[Array, "B E"], here: Bool[Array, " B"], ridge: float) -> Float[Array, " K"]:
    """The canonical correlations of the rows that are `here`, falling; all 0 for fewer than two.

    With Cholesky factors in the place of their square roots T has the same singular values (their sec. 3), and of these
    alone the gradient has no term that grows where two are equal.
    """
    few = here.sum() < 2
    n = jnp.maximum(here.sum(), 2).astype(jnp.float32)
    x, y = (_centred(a.astype(jnp.float32), here, n) for a in (x, y))
    within = [_factor(a.T @ a / (n - 1), ridge, few) for a in (x, y)]
    left = jnp.linalg.solve(within[0], x.T @ y / (n - 1))
    found = jnp.linalg.svd(jnp.linalg.solve(within[1], left.T), compute_uv=False)
    return jnp.where(few, 0.0, found)


def _centred(x: Array, here: Array, n: Array) -> Array:
    x = zero_where_not(here, x)
    return zero_where_not(here, x - x.sum(axis=0, keepdims=True) / n)


def _factor(covariance: Array, ridge: float, few: Array) -> Array:
    """Of the covariance with its ridge; of the unit matrix where there are too few rows for one."""
    unit = jnp.eye(len(covariance))
    mean = jnp.maximum(jnp.trace(covariance) / len(covariance), 1e-6)
    return jnp.linalg.cholesky(jnp.where(few, unit, covariance + ridge * mean * unit))
