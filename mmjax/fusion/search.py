"""Searched fusion (MFAS, DARTS): Pérez-Rúa et al., 2019, 'MFAS', sec. 3.1, eq. 1-2; Liu et al., 2019, 'DARTS', sec. 2.2, eq. 2.

A layer takes one level of every modality, which are its encoder's stages and, above them, its pooled vector, and the layer
before it; which level and which operation is the question. While it is searched for, each layer mixes all levels of a
modality, and all operations on what they give, with softmax weights that are trained with the rest (`architecture_...`; a
factor for them stands in `optimizer.rules`). MFAS samples architectures and trains each; DARTS trains the weights of the
mixture on data of their own, here both see the same. MFAS's operations are activations of the sum; a product and a gate are
added. `found` tells what weighs most, in the words of `architecture=`, with which the same class is that network alone: to be
trained anew. Takes any number of modalities. Gaps: zeros stand in. Time: one vector a level and modality. Cost: a dense layer
for each level while searching, for each modality when found. When nobody knows which levels of the encoders belong together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import stage_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not

# Of the parts [M, B, width], the bias among them; a part that is 0 changes nothing.
OPERATIONS = {
    "relu": lambda parts: nn.relu(parts.sum(axis=0)),
    "sigmoid": lambda parts: nn.sigmoid(parts.sum(axis=0)),
    "tanh": lambda parts: jnp.tanh(parts.sum(axis=0)),
    "product": lambda parts: jnp.prod(1 + jnp.tanh(parts), axis=0) - 1,
    "gate": lambda parts: nn.sigmoid(parts.sum(axis=0)) * jnp.tanh(parts.sum(axis=0)),
}


class Search(nn.Module):
    """With an `architecture`, such as "audio:1 text:3 relu | audio:2 text:1 gate", the network that it describes; else the mixture of all.

    Levels are counted from above: 1 is the pooled vector, 2 the highest stage, each averaged over its valid tokens. The mixture
    has `layers` layers over the first `levels` levels.
    """

    width: int = 256
    layers: int = 2
    levels: int | None = None  # all that an encoder has
    architecture: str | None = None
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        most = max(len(e.stages) + 1 for e in encodings.values())
        if self.levels is not None and not 1 <= self.levels <= most:
            raise ConfigError(f"search: levels={self.levels} should be 1 to {most}: the encoders give up to {most - 1} stages.")
        fixed = None if self.architecture is None else parsed(self.architecture, {m: len(e.stages) + 1 for m, e in encodings.items()})
        encodings = zero_absent(encodings)
        below = None
        for layer in range(self.layers if fixed is None else len(fixed)):
            levels, operation = (None, None) if fixed is None else fixed[layer]
            parts = []
            for m, e in encodings.items():
                own = [levels[m]] if levels else range(1, min(self.levels or most, len(e.stages) + 1) + 1)
                given = jnp.stack([self._dense(_level(e, k, m), e, f"{m}_{layer}_{k}") for k in own])
                parts.append(jnp.einsum("kbd,k->bd", given, self._weights(f"{m}_{layer}", len(given), given.dtype)))
            if below is not None:
                parts.append(nn.Dense(self.width, use_bias=False, dtype=self.dtype, name=f"below_{layer}")(below))
            bias = self.param(f"bias_{layer}", nn.initializers.zeros, (1, self.width), jnp.float32)
            stacked = jnp.stack([*parts, jnp.broadcast_to(bias.astype(self.dtype), parts[0].shape)])
            mixed = jnp.stack([fn(stacked) for name, fn in OPERATIONS.items() if operation in (None, name)])
            below = jnp.einsum("obd,o->bd", mixed, self._weights(f"operation_{layer}", len(mixed), mixed.dtype))
        assert below is not None
        return Encoding.from_pooled(below, presence(encodings).any(axis=1))

    def _dense(self, x: jax.Array, e: Encoding, name: str) -> jax.Array:
        x = zero_where_not(e.present, nn.LayerNorm(dtype=self.dtype, name=f"{name}_norm")(x))
        return nn.Dense(self.width, use_bias=False, dtype=self.dtype, name=name)(x)

    def _weights(self, name: str, count: int, dtype: Any) -> jax.Array:
        if count == 1:
            return jnp.ones(1, dtype)
        alpha = self.param(f"architecture_{name}", nn.initializers.normal(1e-3), (count,), jnp.float32)  # as DARTS begins
        return jax.nn.softmax(alpha).astype(dtype)

    @classmethod
    def tiny(cls) -> tuple[Search, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=8, levels=2), tiny_tokens(image=(4, 8), text=(3, 4))


def _level(e: Encoding, level: int, m: str) -> jax.Array:
    return e.pooled if level == 1 else masked_mean(*stage_tokens(e, 1 - level, m))


def parsed(architecture: str, levels: Mapping[str, int]) -> list[tuple[dict[str, int], str]]:
    """Of each layer the level of every modality, and the operation.

    Raises:
        ConfigError: what it names is not there.
    """
    found = []
    for layer in architecture.split("|"):
        *chosen, operation = layer.split() or [""]
        if operation not in OPERATIONS:
            known = f"{nearest(operation, OPERATIONS)} A layer ends with one of {', '.join(OPERATIONS)}."
            raise ConfigError(f"search: architecture={architecture!r}: the operation {operation!r} is unknown.{known}")
        own = {}
        for word in chosen:
            m, _, level = word.rpartition(":")
            if m not in levels:
                raise ConfigError(f"search: architecture={architecture!r}: {m or word!r} is no modality.{nearest(m or word, levels)}")
            if not level.isdigit() or not 1 <= int(level) <= levels[m]:
                raise ConfigError(f"search: architecture={architecture!r}: {word!r} should have a level of 1 to {levels[m]}.")
            own[m] = int(level)
        if missing := sorted(set(levels) - set(own)):
            raise ConfigError(f"search: architecture={architecture!r}: the layer {layer.strip()!r} says nothing of {missing[0]!r}.")
        found.append((own, operation))
    return found


def found(params: Mapping[str, Any]) -> str:
    """What weighs most, from the parameters of a mixture, as `architecture` takes it; where there was no choice it is the first."""
    layers = sorted(int(name.removeprefix("bias_")) for name in params if name.startswith("bias_"))
    told = []
    for layer in layers:
        own = [re.fullmatch(rf"(.+)_{layer}_(\d+)", name) for name in params]
        modalities = sorted({match[1] for match in own if match})
        best = {m: int(np.argmax(params.get(f"architecture_{m}_{layer}", [0]))) + 1 for m in modalities}
        operation = list(OPERATIONS)[int(np.argmax(params[f"architecture_operation_{layer}"]))]
        told.append(" ".join([*(f"{m}:{level}" for m, level in best.items()), operation]))
    return " | ".join(told)
