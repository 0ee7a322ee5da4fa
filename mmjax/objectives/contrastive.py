"""Contrastive alignment of modality pairs: CLIP's softmax loss and SigLIP's sigmoid loss.

Softmax: Radford et al., 2021, 'Learning Transferable Visual Models', fig. 3 and sec. 2.5 (temperature learned as a
log, starts at 0.07, the scale clipped at 100). Sigmoid: Zhai et al., 2023, 'Sigmoid Loss for Language Image
Pre-Training', sec. 3.2 (scale starts at 10, bias at -10). Rows with equal keys are positives of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mmjax import contract
from mmjax.config import ConfigError
from mmjax.contract import Batch, Context, Loss, Outputs
from mmjax.ops.contrastive import bounded_above, sigmoid_loss, softmax_loss
from mmjax.ops.masks import zero_where_not


def _embedded(outputs: Outputs) -> list[str]:
    return sorted(name.removesuffix("/z") for name in outputs if name.endswith("/z"))


class Contrastive:
    """One term a pair, averaged over the pairs; an example that lacks a side of a pair counts in none of its terms.

    `pairs` is a list of them, "all" that the model embeds, or "hub:image", every other stream with that one (ImageBind:
    Girdhar et al., 2023, eq. 1). Scale and bias are learned, one each for all pairs. `init_scale` and `init_bias` default
    to the papers' values.
    """

    batch_wise = True  # an example's loss depends on its whole batch

    def __init__(
        self,
        pairs: Sequence[Sequence[str]] | str,
        loss: str = "softmax",
        init_scale: float | None = None,
        init_bias: float = -10.0,
        max_scale: float = 100.0,
    ):
        if loss not in ("softmax", "sigmoid"):
            raise ConfigError(f"contrastive: loss={loss!r} is unknown (softmax, sigmoid).")
        named = pairs == "all" or pairs.startswith("hub:") if isinstance(pairs, str) else pairs and all(len(p) == 2 for p in pairs)
        if not named:
            raise ConfigError(
                f"contrastive: pairs={pairs!r} should be a list of two streams each, as in [('image', 'text')], 'all' or 'hub:image'."
            )
        self.pairs = pairs
        self.loss, self.init_bias, self.max_scale = loss, init_bias, max_scale
        self.init_scale = init_scale or (1 / 0.07 if loss == "softmax" else 10.0)

    def init(self, key: PRNGKeyArray, batch: Batch, outputs: Outputs) -> tuple[dict[str, Array], tuple]:
        """The learned scale (as a log) and, for the sigmoid loss, the bias."""
        known = _embedded(outputs)
        hub = [self.pairs.removeprefix("hub:")] if isinstance(self.pairs, str) and self.pairs != "all" else []
        for stream in sorted({*hub, *(s for pair in self._pairs(outputs) for s in pair)}):
            if stream not in known:
                raise ConfigError(f"contrastive: pairs name {stream!r}, which the model does not embed. It embeds: {', '.join(known)}.")
        if len(known) < 2:
            raise ConfigError(f"contrastive: the model embeds {known[0]!r} alone: there is no pair.")
        params = {"log_scale": jnp.float32(math.log(self.init_scale))}
        if self.loss == "sigmoid":
            params["bias"] = jnp.float32(self.init_bias)
        return params, ()

    def __call__(self, ctx: Context, outputs: Outputs, batch: Batch) -> Loss:
        """The terms `<a>_<b>`, and how often the nearest candidate is a right one."""
        scale = jnp.exp(bounded_above(ctx.params["log_scale"], math.log(self.max_scale)))
        terms, metrics, weight = {}, {"scale": scale}, jnp.zeros(())
        pairs = self._pairs(outputs)
        for a, b in pairs:
            both = contract.present(batch, a) & contract.present(batch, b)
            positive = contract.key(batch, a)[:, None] == contract.key(batch, b)[None, :]
            z_a, z_b = (zero_where_not(both, outputs[f"{m}/z"]) for m in (a, b))
            similarity = jnp.einsum("id,jd->ij", z_a, z_b)
            terms[f"{a}_{b}"] = self._pair(ctx.params, scale * similarity, positive, both) / len(pairs)
            best = jnp.where(both[None, :], similarity, -jnp.inf).argmax(axis=1)
            right = jnp.take_along_axis(positive, best[:, None], axis=1)[:, 0] & both
            count = both.sum().astype(jnp.float32)
            metrics[f"{a}_{b}/accuracy"] = right.sum().astype(jnp.float32) / jnp.maximum(count, 1)
            weight = weight + count / len(pairs)
        return Loss(terms, weight, metrics)

    def _pairs(self, outputs: Outputs) -> list[tuple[str, str]]:
        """The pairs of streams, those that are not listed in alphabetical order."""
        if not isinstance(self.pairs, str):
            return [(a, b) for a, b in self.pairs]
        hub = self.pairs.removeprefix("hub:")
        return [(a, b) for a, b in combinations(_embedded(outputs), 2) if self.pairs == "all" or hub in (a, b)]

    def _pair(self, params: Any, logits: Float[Array, "A A"], positive: Array, both: Array) -> Float[Array, ""]:
        if self.loss == "sigmoid":
            return sigmoid_loss(logits + params["bias"], positive, both, both)
        return 0.5 * (softmax_loss(logits, positive, both, both) + softmax_loss(logits.T, positive.T, both, both))

    @classmethod
    def tiny(cls) -> tuple[Contrastive, dict[str, np.ndarray]]:
        """An instance, and a batch whose streams `image` and `text` stand for outputs `<m>/z` as well."""
        rng = np.random.default_rng(0)
        z = {m: rng.normal(size=(8, 4)).astype(np.float32) for m in ("image", "text")}
        return cls(pairs=[("image", "text")]), {
            "image": z["image"],
            "text": z["text"],
            "image/present": np.arange(8) != 3,
            "image/key": np.array([0, 1, 2, 3, 4, 5, 5, 7], np.int32),
            "text/key": np.array([0, 1, 2, 3, 4, 5, 5, 7], np.int32),
        }
