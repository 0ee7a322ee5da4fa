"""Decision-level fusion: each modality has decided for itself, and the decisions are combined.

The pooled vectors are logits over the same classes. Rules over the modalities that a row has:

    average   the mean of the probabilities (the sum rule of Kittler et al., 1998, 'On Combining Classifiers')
    weights   the same with learned weights, one a modality, that sum to 1 over those present
    product   the product of the probabilities, renormalised (their product rule with equal priors; a product of
              experts, Hinton, 2002): one that is sure can veto
    stacking  a linear model on all log-probabilities (Wolpert, 1992, 'Stacked Generalization')

The result is again logits, for all but stacking log-probabilities; where nothing is present, all classes are equal.
Takes any number of modalities. Gaps: left out; with stacking, zeros stand in. Time: one vector a modality. Cost: none
to speak of. The baseline to beat, and robust where modalities are missing.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not

RULES = ("average", "weights", "product", "stacking")


class Decision(nn.Module):
    """Logits [B, K] of every modality to logits [B, K]."""

    rule: str = "average"
    dtype: Dtype = "float32"

    decision_level = True  # the fuser gives it logits
    head_kinds = ("class",)

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.rule not in RULES:
            raise ConfigError(f"decision: rule={self.rule!r} is unknown.{nearest(self.rule, RULES)}")
        encodings = zero_absent(encodings)
        classes = {m: e.pooled.shape[1] for m, e in encodings.items()}
        if len(set(classes.values())) > 1:
            raise ConfigError(f"decision: the modalities give logits of different numbers of classes: {classes}.")
        present = presence(encodings)
        any_present = present.any(axis=1)
        log_p = jax.nn.log_softmax(jnp.stack([e.pooled.astype(self.dtype) for e in encodings.values()], axis=1))  # [B, M, K]

        if self.rule == "stacking":
            fused = nn.DenseGeneral(log_p.shape[-1], axis=(1, 2), dtype=self.dtype, name="out")(zero_where_not(present, log_p))
        elif self.rule == "product":
            fused = jax.nn.log_softmax(zero_where_not(present, log_p).sum(axis=1))
        else:
            modalities = present.shape[1]
            score = jnp.zeros(modalities) if self.rule == "average" else self.param("weights", nn.initializers.zeros, (modalities,))
            here = present | ~any_present[:, None]  # with nothing there: all of them, which are 0
            log_w = jax.nn.log_softmax(jnp.where(here, score.astype(self.dtype)[None], -jnp.inf))
            fused = jax.nn.logsumexp(log_p + log_w[:, :, None], axis=1)
        return Encoding.from_pooled(fused, any_present)

    @classmethod
    def tiny(cls) -> tuple[Decision, dict[str, np.ndarray]]:
        """A small instance, and the logits of three modalities for it: the means of tokens."""
        return cls(rule="weights"), tiny_tokens(audio=(5, 4), image=(3, 4), text=(2, 4))
