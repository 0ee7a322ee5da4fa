"""MIMO: Havasi et al., 2021, 'Training independent subnetworks for robust prediction', sec. 2, with a modality an input.

One network with an input layer and an output layer a modality: the subnetwork of each is to predict from its own modality
alone, in weights that all share, and their mean is an ensemble's. In training every modality's rows are shuffled for
themselves, so that the inputs of a pass are of different examples, and what comes out at a modality's end goes back to the row
it is of; but for a share `repetition` of rows, which stay (their input repetition). There a row gets one of its subnetworks'
vectors, drawn at random, so that the head's loss is in expectation the mean of theirs, which the paper adds up; in evaluation
their mean. The paper's inputs are copies of one image. In training rows of a batch meet by this. Takes any number of
modalities. Gaps: zeros stand in before the network; behind it, it is left out. Time: one vector a modality. Cost: two dense
layers a modality, and `depth` for all. For an ensemble at the price of one network, and where modalities should not lean on
each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent


class Mimo(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]."""

    width: int = 256
    depth: int = 2
    repetition: float = 0.0  # rho of the paper: the share of rows whose inputs are of one example in training, too
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        encodings, here = zero_absent(encodings), presence(encodings)
        x, counted, back = jnp.zeros((len(here), self.width), self.dtype), here, {}
        keys = jax.random.split(self.make_rng("dropout"), len(encodings) + 2) if train else None
        if keys is not None:
            one = jax.random.categorical(keys[0], jnp.where(here, 0.0, -jnp.inf))
            counted = here & (jnp.arange(here.shape[1])[None] == one[:, None])
        for i, (m, e) in enumerate(encodings.items()):
            own = nn.Dense(self.width, dtype=self.dtype, name=f"{m}_in")(e.pooled)
            if keys is not None:
                rows, back[m] = shuffled(keys[i + 2], jax.random.uniform(keys[1], (len(x),)) < self.repetition)
                own = own[rows]
            x += own
        for i in range(self.depth):
            x = nn.relu(nn.LayerNorm(dtype=self.dtype, name=f"norm_{i}")(x))
            x = nn.Dense(self.width, dtype=self.dtype, name=f"dense_{i}")(nn.Dropout(self.dropout, deterministic=not train)(x))
        said = {m: nn.Dense(self.width, dtype=self.dtype, name=f"{m}_out")(nn.relu(x)) for m in encodings}
        said = jnp.stack([y[back[m]] if m in back else y for m, y in said.items()], axis=1)
        return Encoding.from_pooled(masked_mean(said, counted), here.any(axis=1))

    @classmethod
    def tiny(cls) -> tuple[Mimo, dict[str, np.ndarray]]:
        """A small instance whose rows do not meet, and tokens of three modalities for it."""
        return cls(width=8, depth=1, repetition=1.0), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))


def shuffled(key: PRNGKeyArray, stay: Bool[Array, " B"]) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """Which row stands in the place of each, and in whose place each row stands: at random among those that do not `stay`."""
    draw = jnp.where(stay, -1.0, jax.random.uniform(key, stay.shape))
    places, rows = jnp.argsort(jnp.where(stay, -1.0, 0.0)), jnp.argsort(draw)  # those that stay come first in both, in order
    return jnp.zeros_like(rows).at[places].set(rows), jnp.zeros_like(rows).at[rows].set(places)
