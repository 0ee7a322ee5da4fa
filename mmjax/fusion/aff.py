"""Attentional feature fusion (AFF, iAFF): Dai et al., 2021, 'Attentional Feature Fusion', sec. 3-4.

Feature maps are averaged with weights that the sum of them decides, for each place and channel: the sigmoid of a local context
(two 1x1 convolutions) plus a global one (the same on the mean over all places), the multi-scale channel attention (MS-CAM). iAFF
decides a second time, from what the first fusion gave instead of the sum. The published AFF doubles the result, the paper's does not.

The maps are the tokens, brought to the places of the `main` modality's. The sigmoid is the softmax of a score and 0, so with
more than two modalities each but the main one has an MS-CAM's score of its own and the main one's is 0: the weights add up to 1
over those that are there. A row without the main modality has one place, at which the others' means are. Takes any number of
modalities. Gaps: left out, the main modality, too. Time: others' tokens to the main ones nearest, by time where both have one and
else by place. Cost: two bottlenecks of width^2 / ratio a modality and token, for each round. When modalities show the same things
at the same places and which to believe differs from place to place.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.norm import Norm
from mmjax.nn.tokens import main_of, projected
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_where_not
from mmjax.ops.places import shares


class AFF(nn.Module):
    """Tokens are the main modality's and, last, the one place of rows without it; pooled is their mean."""

    main: str | None = None  # the first by name
    width: int = 256
    ratio: int = 4  # r: how much narrower the bottleneck of an MS-CAM is
    rounds: int = 1
    dtype: Dtype = "float32"

    variants = {"aff": {"rounds": 1}, "iaff": {"rounds": 2}}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.rounds < 1 or not 1 <= self.ratio <= self.width:
            raise ConfigError(f"aff: rounds={self.rounds} should be at least 1, ratio={self.ratio} from 1 to width={self.width}.")
        main, here = main_of(self.main, encodings), presence(encodings).any(axis=1)
        parts = projected(encodings, self.width, self.dtype)
        x, own = (jnp.pad(a, ((0, 0), (0, 1), *((0, 0),) * (a.ndim - 2))) for a in parts.pop(main))
        valid = own.at[:, -1].set(here & ~own.any(axis=1))
        time = encodings[main].time
        time = None if time is None else jnp.pad(time, ((0, 0), (0, 1)))

        maps, seen = [zero_where_not(own, x)], [own]
        for m, (tokens, others) in parts.items():
            share = shares(valid, others, time, encodings[m].time).astype(tokens.dtype)
            maps.append(jnp.einsum("bnm,bmd->bnd", share, tokens))
            seen.append(share.any(axis=2))
        x, seen = jnp.stack(maps, axis=2), jnp.stack(seen, axis=2)[..., None]
        fused = x.sum(axis=2)
        for i in range(self.rounds if parts else 0):
            scores = self._scores(fused, valid, tuple(parts), f"_{i}", train)
            weight = jax.nn.softmax(jnp.stack([jnp.zeros_like(fused), *scores], axis=2), axis=2, where=seen)
            fused = (weight * x).sum(axis=2)  # AFF, and with the next round iAFF
        return Encoding(fused, valid, masked_mean(fused, valid), here)

    def _scores(
        self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"], names: tuple[str, ...], end: str, train: bool
    ) -> list[Float[Array, "B N D"]]:
        """An MS-CAM's local and global context for each modality; the first layer is the same for all."""
        scores = [jnp.zeros_like(x)] * len(names)
        for scope, y, real in (("local", x, valid), ("global", masked_mean(x, valid)[:, None], valid.any(axis=1, keepdims=True))):
            dense, norm = partial(nn.Dense, use_bias=False, dtype=self.dtype), partial(Norm, "batch", self.dtype)
            hidden = dense(self.width // self.ratio, name=f"{scope}_in{end}")(y)
            hidden = nn.relu(norm(name=f"{scope}_norm{end}")(hidden, real, train=train))
            for k, m in enumerate(names):
                score = dense(self.width, name=f"{m}_{scope}_out{end}")(hidden)
                scores[k] = scores[k] + norm(name=f"{m}_{scope}_norm{end}")(score, real, train=train)
        return scores

    @classmethod
    def tiny(cls) -> tuple[AFF, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(main="image", width=8, ratio=2), tiny_tokens(image=(4, 8), text=(3, 4))
