"""FiLM: Perez et al., 2018, 'FiLM: Visual Reasoning with a General Conditioning Layer', eq. 1-2.

The other modalities scale and shift the features of the `main` one: gamma * x + beta, where gamma is 1 and beta is 0 plus a
linear map of each of them, as in the published code, so that nothing changes where no other modality is. A row without the main
modality has beta alone. Takes any number of modalities; `main` has to be among them. Gaps: left out; without the main modality
only the shift is there. Time: one vector a modality, the main one's tokens stay. Cost: one dense layer to twice the main width
a further modality. For a question about a picture, or a state that steers perception.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import main_of
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not


class FiLM(nn.Module):
    """Tokens [B, N, D] and pooled vector [B, D] of the modality `main`, modulated by the others' pooled vectors."""

    main: str | None = None  # the first by name
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        main_name = main_of(self.main, encodings)
        encodings = zero_absent(encodings)
        here, main = presence(encodings).any(axis=1), encodings.pop(main_name)
        tokens, pooled = main.tokens.astype(self.dtype), main.pooled.astype(self.dtype)
        gamma, beta = jnp.ones_like(pooled), jnp.zeros_like(pooled)
        for m, e in encodings.items():
            change = zero_where_not(e.present, nn.Dense(2 * pooled.shape[1], dtype=self.dtype, name=f"{m}_film")(e.pooled))
            gamma, beta = gamma + change[:, : pooled.shape[1]], beta + change[:, pooled.shape[1] :]

        first = jnp.broadcast_to(jnp.arange(tokens.shape[1]) == 0, main.valid.shape)  # speaks for a main modality that is absent
        valid = jnp.where(main.present[:, None], main.valid, first & here[:, None])
        return Encoding(gamma[:, None] * tokens + beta[:, None], valid, gamma * pooled + beta, here, main.time)

    @classmethod
    def tiny(cls) -> tuple[FiLM, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(main="image"), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
