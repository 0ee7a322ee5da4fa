"""Ordered classes: Cao et al., 2020, 'Rank consistent ordinal regression for neural networks' (CORAL), eq. 4."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.objectives._supervised import Supervised, mean_of


class Ordinal(Supervised):
    """Logits [B, C - 1], k of them for 'the class is above k', against classes [B]: binary cross-entropies, summed over k.

    The head is `kind="ordinal"` of `models/fuser.py`. `target`, `output` and `learned_weight` are as in `CrossEntropy`.
    """

    def __init__(self, target: str = "label", output: str | None = None, learned_weight: bool = False):
        super().__init__(target, output, learned_weight)

    def check(self, output: tuple[int, ...], target: tuple[int, ...]) -> None:
        """Logits [B, C - 1] for labels [B]."""
        if len(output) != 2 or output[:1] != target:
            super().check(output, target)

    def measure(
        self, output: Float[Array, "B K"], target: Int[Array, " B"], here: Bool[Array, " B"]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """The mean over rows, and by how many classes the predicted one is wrong."""
        above = target[:, None] > jnp.arange(output.shape[1])[None]
        rows = -jax.nn.log_sigmoid(jnp.where(above, output, -output)).sum(axis=1)
        weight = here.astype(jnp.float32)
        wrong = jnp.abs((output > 0).sum(axis=1) - target).astype(jnp.float32)
        return mean_of(rows, weight), weight.sum(), {"mae": mean_of(wrong, weight)}

    @classmethod
    def tiny(cls) -> tuple[Ordinal, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the model's output beside the target."""
        rng = np.random.default_rng(0)
        logits, label = rng.normal(size=(8, 3)).astype(np.float32), rng.integers(0, 4, 8, dtype=np.int32)
        return cls(), {"label/logits": logits, "label": label, "label/present": np.arange(8) != 3}
