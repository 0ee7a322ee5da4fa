"""A sparse mixture of experts in the place of an MLP: Shazeer et al., 2017, 'Outrageously Large Neural Networks'."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import zero_where_not


class Experts(nn.Module):
    """Each valid token passes the `chosen` experts, two dense layers each, that the router gives most probability; others give 0.

    The sum is weighted by those probabilities: by themselves for one (Fedus et al., 2022, 'Switch Transformers', eq. 2), scaled to
    sum 1 for more (Shazeer et al., eq. 3-5, without noise; Lepikhin et al., 2021, 'GShard', algorithm 1). As in GShard, groups are
    dispatched for themselves, and here a row is a group: an expert takes at most `capacity` times a row's even share, all tokens'
    first choices before the second, and what is over it gets nothing from that expert. Without a `capacity` nothing is over.

    Returns besides, over all valid tokens of the batch, Switch's loss of balance (eq. 4-6), 1 where routing is even: experts times
    the sum over them of the fraction of choices that fell on one and its mean probability.
    """

    experts: int = 8
    chosen: int = 2
    ratio: float = 4.0
    capacity: float | None = 2.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> tuple[Float[Array, "B N D"], Float[Array, ""]]:
        if not 1 <= self.chosen <= self.experts:
            raise ConfigError(f"experts: chosen={self.chosen} is not between 1 and experts={self.experts}.")
        rows, n, width = x.shape
        x = zero_where_not(valid, x)
        logits = nn.Dense(self.experts, use_bias=False, name="router")(x.astype(jnp.float32))
        probability = zero_where_not(valid, jax.nn.softmax(logits))  # [B,N,E]
        top, which = jax.lax.top_k(probability, self.chosen)
        weight = top if self.chosen == 1 else top / jnp.maximum(top.sum(axis=2, keepdims=True), 1e-9)
        choices = zero_where_not(valid, jax.nn.one_hot(which, self.experts))  # [B,N,K,E]
        share, count = choices.sum(axis=(0, 1, 2)) / self.chosen, jnp.maximum(valid.sum(), 1).astype(jnp.float32)
        balance = self.experts * jnp.sum(share / count * probability.sum(axis=(0, 1)) / count)

        places = n if self.capacity is None else min(n, -int(-self.capacity * self.chosen * n // self.experts))
        ordered = choices.swapaxes(1, 2).reshape(rows, -1, self.experts)  # first choices first
        place = ((jnp.cumsum(ordered, axis=1) - 1) * ordered).reshape(rows, self.chosen, n, self.experts).sum(axis=1)
        taken = jax.nn.one_hot(place.astype(jnp.int32), places) * choices.sum(axis=2)[..., None]  # [B,N,E,places]; 0 over the capacity
        gate = jnp.einsum("bnke,bnk->bne", choices, weight).astype(self.dtype)
        taken, x = taken.astype(self.dtype), x.astype(self.dtype)
        inside = jnp.einsum("bnec,bnd->becd", taken, x)

        hidden, init = round(width * self.ratio), nn.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=0)
        sizes = {"in": (self.experts, width, hidden), "out": (self.experts, hidden, width)}
        kernels = {name: self.param(f"{name}_kernel", init, size, jnp.float32).astype(self.dtype) for name, size in sizes.items()}
        biases = {name: self.param(f"{name}_bias", nn.initializers.zeros, size[::2], jnp.float32) for name, size in sizes.items()}
        h = nn.gelu(jnp.einsum("becd,edh->bech", inside, kernels["in"]) + biases["in"].astype(self.dtype)[None, :, None])
        y = jnp.einsum("bech,ehd->becd", h, kernels["out"]) + biases["out"].astype(self.dtype)[None, :, None]
        return jnp.einsum("bnec,bne,becd->bnd", taken, gate, y), balance
