"""Non-local gate: a non-local block (Wang et al., 2018, 'Non-local Neural Networks', eq. 4 and 6) between modalities.

Used for video and sound by Wang et al., 2020, 'What Makes Training Multi-Modal Classification Networks Hard?', app. F.4:
each token of the main modality adds what it finds among the others' tokens, by an embedded Gaussian (no scale, one
head). The last layer starts at zero, and the gate at the identity: it can be put on a trained main modality without
harm. In rows without the main modality a learned token stands in for it. Takes any number of modalities. Gaps: left out;
a learned token stands in for the main modality. Time: unaligned tokens. Cost: N_main x N_others. When one modality is
strong by itself and another helps.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import LearnedTokens, concatenated, main_of
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not


class NLGate(nn.Module):
    """Tokens are the main modality's and, last, the stand-in, in the main modality's width; pooled is their mean.

    `hidden` is the width of queries, keys and values.
    """

    main: str | None = None  # the first by name
    hidden: int = 128
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        main_name = main_of(self.main, encodings)
        present = presence(encodings).any(axis=1)
        others = zero_absent(encodings)
        main = others.pop(main_name)
        x, valid = main.tokens.astype(self.dtype), main.valid
        stand_in, _ = LearnedTokens(1, x.shape[-1], self.dtype, name="stand_in")(len(present))
        missing = present & ~valid.any(axis=1)
        x, valid = concatenated([(x, valid), (stand_in, missing[:, None])])

        if others:
            dense = partial(nn.Dense, dtype=self.dtype)
            key, seen = concatenated((dense(self.hidden, name=f"{m}_key")(e.tokens), e.valid) for m, e in others.items())
            value, _ = concatenated((dense(self.hidden, name=f"{m}_value")(e.tokens), e.valid) for m, e in others.items())
            query = dense(self.hidden, name="query")(x)
            weight = jax.nn.softmax(jnp.einsum("bid,bjd->bij", query, key), axis=-1, where=seen[:, None, :])  # eq. 4
            out = dense(x.shape[-1], kernel_init=nn.initializers.zeros, name="out")
            x += zero_where_not(seen.any(axis=1), out(jnp.einsum("bij,bjd->bid", weight, value)))  # eq. 6
        return Encoding(x, valid, masked_mean(x, valid), present)

    @classmethod
    def tiny(cls) -> tuple[NLGate, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(main="image", hidden=4), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
