"""Tokens of several modalities on their way into one transformer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import stage_valid, zero_absent

Tokens = tuple[Float[Array, "B _ D"], Bool[Array, "B _"]]  # and which of them are valid; modalities differ in length


def main_of(main: str | None, encodings: Mapping[str, Encoding]) -> str:
    """The main modality, without a choice the first by name; refuses one that is not among the encodings."""
    main = min(encodings) if main is None else main
    if main not in encodings:
        raise ConfigError(f"fusion.main={main!r} is no modality of the model.{nearest(main, encodings)}")
    return main


def stage_tokens(encoding: Encoding, stage: int, modality: str) -> Tokens:
    """One of an encoding's stages (0 is the lowest, -1 the highest) as tokens."""
    count = len(encoding.stages)
    if not -count <= stage < count:
        raise ConfigError(f"fusion.stage={stage}: the encoder of {modality!r} gives {count} stages.")
    return encoding.stages[stage], stage_valid(encoding, encoding.stages[stage])


def projected(encodings: Mapping[str, Encoding], width: int, dtype: Dtype, stage: int | None = None) -> dict[str, Tokens]:
    """{modality: its tokens, or one stage's, through a dense layer of its own}, sorted by name. To be called in a compact module.

    What is absent is 0 before the layer. The layer's bias, drawn at random, is the modality's embedding: it tells a
    transformer which modality a token is of.
    """
    parts = {}
    for m, e in zero_absent(encodings).items():
        tokens, valid = (e.tokens, e.valid) if stage is None else stage_tokens(e, stage, m)
        parts[m] = nn.Dense(width, dtype=dtype, bias_init=nn.initializers.normal(0.02), name=f"{m}_in")(tokens), valid
    return parts


def with_stand_in(x: Float[Array, "B N D"], valid: Bool[Array, "B N"], present: Bool[Array, " B"]) -> Tokens:
    """A main modality's tokens and, last, a learned one, valid in present rows that have none. To be called in a compact module."""
    stand_in, _ = LearnedTokens(1, x.shape[-1], x.dtype, name="stand_in")(len(x))
    return concatenated([(x, valid), (stand_in, (present & ~valid.any(axis=1))[:, None])])


def concatenated(parts: Iterable[Tokens]) -> Tokens:
    """Several modalities' tokens as one sequence."""
    tokens, valid = zip(*parts, strict=True)
    return jnp.concatenate(tokens, axis=1), jnp.concatenate(valid, axis=1)


def stage_time(encoding: Encoding, stage: int | None) -> Float[Array, "B N"] | None:
    """When the tokens of a stage, or of the encoding, stand; None where that is not known."""
    if stage is not None and encoding.stages[stage].shape[:2] != encoding.valid.shape:
        return None
    return encoding.time


class LearnedTokens(nn.Module):
    """`count` learned tokens, the same in every row and always valid: class tokens, bottlenecks, latents."""

    count: int
    width: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, rows: int) -> Tokens:
        tokens = self.param("tokens", nn.initializers.normal(0.02), (1, self.count, self.width), jnp.float32)
        return jnp.broadcast_to(tokens.astype(self.dtype), (rows, self.count, self.width)), jnp.ones((rows, self.count), bool)
