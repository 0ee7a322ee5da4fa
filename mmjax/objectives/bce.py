"""Binary cross-entropy of each of several tags, any number of which hold."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.objectives._supervised import Supervised, confident, mean_of


class BCE(Supervised):
    """`<target>/logits` [B, C] against `<target>` [B, C], the mean over tags and rows.

    Args:
        target, output: what is predicted, and the output if it is not `<target>/logits`.
        positive_weights: a factor for each tag where it holds, against rare ones being neglected.
        focal: the exponent of (1 - p of what is right): Lin et al., 2017, 'Focal Loss', eq. 4.
        learned_weight: see `_supervised.py`.
    """

    kind = "tags"

    def __init__(
        self,
        target: str = "tags",
        output: str | None = None,
        positive_weights: Sequence[float] | None = None,
        focal: float = 0.0,
        learned_weight: bool = False,
    ):
        super().__init__(target, output, learned_weight)
        if focal < 0 or min(positive_weights or [1]) <= 0:
            raise ConfigError(f"bce: focal={focal} should be at least 0, and positive_weights={positive_weights} above 0.")
        self.positive_weights, self.focal = positive_weights, focal

    def check(self, output: tuple[int, ...], target: tuple[int, ...]) -> None:
        """Logits [B, C] for tags [B, C]."""
        super().check(output, target)
        if self.positive_weights is not None and len(self.positive_weights) != output[1]:
            raise ConfigError(f"bce: there are {len(self.positive_weights)} positive_weights for {output[1]} tags.")

    def measure(
        self, output: Float[Array, "B C"], target: Bool[Array, "B C"], here: Bool[Array, " B"]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """The mean over rows, and the share of tags on the right side."""
        log_p = jax.nn.log_sigmoid(jnp.where(target, output, -output))
        loss = -log_p * (confident(log_p) ** self.focal if self.focal else 1.0)
        if self.positive_weights is not None:
            loss = jnp.where(target, jnp.asarray(self.positive_weights, jnp.float32)[None], 1.0) * loss
        weight = here.astype(jnp.float32)
        right = ((output > 0) == target).astype(jnp.float32).mean(axis=1)
        return mean_of(loss.mean(axis=1), weight), weight.sum(), {"accuracy": mean_of(right, weight)}

    @classmethod
    def tiny(cls) -> tuple[BCE, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the model's output beside the target."""
        rng = np.random.default_rng(0)
        logits, tags = rng.normal(size=(8, 3)).astype(np.float32), rng.random((8, 3)) < 0.4
        return cls(positive_weights=(1.0, 2.0, 3.0), focal=2.0), {"tags/logits": logits, "tags": tags, "tags/present": np.arange(8) != 3}
