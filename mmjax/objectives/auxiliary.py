"""Losses that encoders and fusions bring themselves: reconstruction, KL divergence, orthogonality, balance of experts."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mmjax import contract
from mmjax.config import ConfigError, nearest
from mmjax.contract import Batch, Context, Loss, Outputs
from mmjax.objectives._supervised import mean_of
from mmjax.ops.masks import zero_where_not


class Auxiliary:
    """Every output `aux/<name>` [B] as a term, the mean over the rows that have any stream.

    Args:
        weights: {name: factor}; what it leaves out has `default`.
        default: the factor of all others, 1 by default; with 0 only those named count.
    """

    batch_wise = False

    def __init__(self, weights: Mapping[str, float] | None = None, default: float = 1.0):
        self.weights, self.default = dict(weights or {}), default

    def init(self, key: PRNGKeyArray, batch: Batch, outputs: Outputs) -> tuple[dict[str, Array], tuple]:
        """Nothing of its own.

        Raises:
            ConfigError: the model brings no such loss, or none at all.
        """
        known = [name.removeprefix("aux/") for name in outputs if name.startswith("aux/")]
        for name in self.weights:
            if name not in known:
                raise ConfigError(f"auxiliary.weights: no part of the model brings a loss {name!r}.{nearest(name, known)}")
        if not known:
            raise ConfigError("auxiliary: no part of the model brings a loss of its own. Leave this objective out.")
        return {}, ()

    def __call__(self, ctx: Context, outputs: Outputs, batch: Batch) -> Loss:
        """A weighted term for each loss; the losses themselves are metrics `<name>/loss`."""
        here = jnp.stack([contract.present(batch, m) for m in contract.streams(batch)]).any(axis=0)
        weight = here.astype(jnp.float32)
        names = sorted(name.removeprefix("aux/") for name in outputs if name.startswith("aux/"))
        means = {name: mean_of(zero_where_not(here, outputs[f"aux/{name}"].astype(jnp.float32)), weight) for name in names}
        terms = {name: self.weights.get(name, self.default) * mean for name, mean in means.items()}
        return Loss(terms, weight.sum(), {f"{name}/loss": mean for name, mean in means.items()})

    @classmethod
    def tiny(cls) -> tuple[Auxiliary, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the model's outputs beside a stream."""
        rng = np.random.default_rng(0)
        found = {f"aux/{name}": rng.normal(size=8).astype(np.float32) for name in ("kl", "reconstruction")}
        return cls({"kl": 0.1}), {"series": np.ones((8, 2), np.float32), "series/present": np.arange(8) != 3, **found}
