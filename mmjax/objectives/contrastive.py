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
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmjax import contract
from mmjax.config import ConfigError, nearest
from mmjax.contract import Batch, Context, Loss, Outputs
from mmjax.ops.contrastive import Side, batch_devices, blockwise_sigmoid, blockwise_softmax, bounded_above, sigmoid_loss, softmax_loss
from mmjax.ops.masks import zero_where_not

LOGITS = ("dense", "chunked", "ring")


def _embedded(outputs: Outputs) -> list[str]:
    return sorted(name.removesuffix("/z") for name in outputs if name.endswith("/z"))


class Contrastive:
    """One term a pair, averaged over the pairs; an example that lacks a side of a pair counts in none of its terms.

    `pairs` is a list of them, "all" that the model embeds, or "hub:image", every other stream with that one (ImageBind:
    Girdhar et al., 2023, eq. 1). Scale and bias are learned, one each for all pairs. `init_scale` and `init_bias` default
    to the papers' values.

    `logits` says how they are made: "dense", all pairs of the batch at once; "chunked", a device's rows against `chunk` others at
    a time, all embeddings gathered on every device; "ring", the same, but devices pass their embeddings round. Loss and gradients
    are the same, memory is that of rows x batch or of rows x `chunk`.
    """

    batch_wise = True  # an example's loss depends on its whole batch

    def __init__(
        self,
        pairs: Sequence[Sequence[str]] | str,
        loss: str = "softmax",
        init_scale: float | None = None,
        init_bias: float = -10.0,
        max_scale: float = 100.0,
        logits: str = "dense",
        chunk: int = 1_024,
    ):
        if loss not in ("softmax", "sigmoid"):
            raise ConfigError(f"contrastive: loss={loss!r} is unknown (softmax, sigmoid).")
        named = pairs == "all" or pairs.startswith("hub:") if isinstance(pairs, str) else pairs and all(len(p) == 2 for p in pairs)
        if not named:
            raise ConfigError(
                f"contrastive: pairs={pairs!r} should be a list of two streams each, as in [('image', 'text')], 'all' or 'hub:image'."
            )
        if logits not in LOGITS:
            raise ConfigError(f"contrastive: logits={logits!r} is unknown.{nearest(str(logits), LOGITS)}")
        if not isinstance(chunk, int) or chunk < 1:
            raise ConfigError(f"contrastive: chunk={chunk!r} should be a positive number of columns.")
        self.pairs, self.logits, self.chunk = pairs, logits, chunk
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
            sides = (Side(zero_where_not(both, outputs[f"{m}/z"]), contract.key(batch, m), both) for m in (a, b))
            loss, right = (self._dense if self.logits == "dense" else self._blockwise)(scale, ctx.params, *sides)
            terms[f"{a}_{b}"] = loss / len(pairs)
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

    def _dense(self, scale: Array, params: Any, a: Side, b: Side) -> tuple[Float[Array, ""], Bool[Array, " B"]]:
        """The loss, and the rows whose nearest candidate is a right one."""
        positive = a.key[:, None] == b.key[None, :]
        similarity = jnp.einsum("id,jd->ij", a.z, b.z)
        best = jnp.where(b.counts[None, :], similarity, -jnp.inf).argmax(axis=1)
        right = jnp.take_along_axis(positive, best[:, None], axis=1)[:, 0] & a.counts
        logits = scale * similarity
        if self.loss == "sigmoid":
            return sigmoid_loss(logits + params["bias"], positive, a.counts, b.counts), right
        there = softmax_loss(logits, positive, a.counts, b.counts)
        return 0.5 * (there + softmax_loss(logits.T, positive.T, b.counts, a.counts)), right

    def _blockwise(self, scale: Array, params: Any, a: Side, b: Side) -> tuple[Float[Array, ""], Bool[Array, " B"]]:
        """What `_dense` gives, without an array of all pairs."""
        if len(a.key) % (size := math.prod(batch_devices().values())):
            raise ConfigError(f"contrastive: logits={self.logits!r} takes a batch that splits over {size} devices, not {len(a.key)} rows.")
        ring = self.logits == "ring"
        if self.loss == "sigmoid":
            return blockwise_sigmoid(scale, params["bias"], a, b, self.chunk, ring)
        return blockwise_softmax(scale, a, b, self.chunk, ring)

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
