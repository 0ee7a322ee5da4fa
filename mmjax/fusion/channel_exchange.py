"""Channel exchange (CEN): Wang et al., 2020, 'Deep Multimodal Fusion by Channel Exchanging', sec. 3.2-3.4.

All modalities pass the same layers, with a batch norm for each of them. Where a norm's scale of a channel has become smaller than
`threshold`, that channel says little of its modality, and what the others have in it at the same place, their mean, is put in its
stead. Only a part of the channels of each modality can be so exchanged, the parts disjoint, or two modalities might lose
the same channel. `aux` has "channel_sparsity", the sum of the scales' sizes over those parts: the objective `auxiliary` brings
it in, with a weight like the paper's 2e-4. Without it no scale becomes small and nothing is exchanged.

The layers are residual blocks of two dense layers, the first with the norm behind it, on tokens; the paper's are a ResNet's. What
each modality ends in is averaged with learned weights that add up to 1 over those that are there. Takes any number of
modalities. Gaps: an absent modality takes no part in exchange, average and statistics; how the channels are divided goes by all.
Time: exchange is between the tokens nearest to each other, by time where both have one and else by place. Cost: two dense layers a
block and token, parameters hardly more than of one modality. For modalities that are aligned and alike, as colour and depth, when
parameters are dear.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.norm import Norm
from mmjax.nn.tokens import concatenated, projected
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent
from mmjax.ops.places import shares


class ChannelExchange(nn.Module):
    """Tokens are all modalities' behind the last block. Modality k of M, by name, can exchange the k-th of M parts of the channels."""

    width: int = 256
    depth: int = 4
    threshold: float = 0.02
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.threshold < 0:
            raise ConfigError(f"channel_exchange: threshold={self.threshold} should be at least 0: it is for the sizes of scales.")
        encodings, present = zero_absent(encodings), presence(encodings)
        parts = projected(encodings, self.width, self.dtype)
        streams, valid = ({m: part[i] for m, part in parts.items()} for i in range(2))
        time = {m: e.time for m, e in encodings.items()}
        share = {(m, n): shares(valid[m], valid[n], time[m], time[n]).astype(self.dtype) for m in streams for n in streams if m != n}
        owner = np.arange(self.width) * len(streams) // self.width
        part = {m: jnp.asarray(owner == k)[None, None] for k, m in enumerate(streams)}

        sparsity = jnp.zeros((), jnp.float32)
        for i in range(self.depth):
            first = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name=f"in_{i}")
            second = nn.Dense(self.width, dtype=self.dtype, name=f"out_{i}")
            scale, hidden = {}, {}
            for m, x in streams.items():
                scale[m], bias = (
                    self.param(f"{m}_{name}_{i}", start, (1, 1, self.width), jnp.float32)
                    for name, start in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros))
                )
                norm = Norm("batch", self.dtype, affine=False, name=f"{m}_norm_{i}")
                hidden[m] = scale[m].astype(self.dtype) * norm(first(x), valid[m], train=train) + bias.astype(self.dtype)
            for m, x in streams.items():
                y = hidden[m]
                if share:
                    taken = {n: share[m, n] for n in streams if n != m}
                    others = sum(jnp.einsum("bnk,bkd->bnd", a, hidden[n]) for n, a in taken.items())
                    some = sum(a.sum(axis=2, keepdims=True) for a in taken.values())  # how many others are there
                    small = part[m] & (jnp.abs(scale[m]) < self.threshold)
                    y = jnp.where(small & (some > 0.5), others / jnp.maximum(some, 1), y)
                    sparsity = sparsity + jnp.where(part[m], jnp.abs(scale[m]), 0.0).sum()
                streams[m] = x + second(nn.relu(y))

        weight = self.param("ensemble", nn.initializers.zeros, (1, len(streams)), jnp.float32)
        weight = jax.nn.softmax(jnp.broadcast_to(weight, present.shape), axis=1, where=present).astype(self.dtype)
        means = jnp.stack([masked_mean(x, valid[m]) for m, x in streams.items()], axis=1)
        tokens = concatenated((x, valid[m]) for m, x in streams.items())
        aux = {"channel_sparsity": jnp.broadcast_to(sparsity, len(present))}
        return Encoding(*tokens, jnp.einsum("bm,bmd->bd", weight, means), present.any(axis=1), aux=aux)

    @classmethod
    def tiny(cls) -> tuple[ChannelExchange, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=8, depth=1, threshold=1.0), tiny_tokens(audio=(5, 6), text=(3, 4))
