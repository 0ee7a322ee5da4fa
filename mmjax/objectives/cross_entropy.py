"""Cross-entropy of one class among several: with smoothed labels (Szegedy et al., 2016, sec. 7), weights of classes, and the
focal factor (Lin et al., 2017, 'Focal Loss', eq. 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.config import ConfigError
from mmjax.objectives._supervised import Supervised, confident, mean_of


class CrossEntropy(Supervised):
    """`<target>/logits` [B, C] against the classes `<target>` [B].

    Args:
        target, output: what is predicted, and the output if it is not `<target>/logits`.
        smoothing: the share of a label that is spread over all classes.
        class_weights: a factor for each class; the mean is then over weights, not rows.
        focal: the exponent of (1 - p), 0 for none; not together with smoothing.
        learned_weight: see `_supervised.py`.
    """

    def __init__(
        self,
        target: str = "label",
        output: str | None = None,
        smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        focal: float = 0.0,
        learned_weight: bool = False,
    ):
        super().__init__(target, output, learned_weight)
        if not 0 <= smoothing < 1 or focal < 0 or (smoothing and focal):
            raise ConfigError(f"cross_entropy: smoothing={smoothing} should be in [0, 1), focal={focal} at least 0, and one of them 0.")
        if class_weights is not None and (min(class_weights, default=-1) < 0 or max(class_weights) == 0):
            raise ConfigError(f"cross_entropy: class_weights={list(class_weights)} should be at least 0, and not all 0.")
        self.smoothing, self.class_weights, self.focal = smoothing, class_weights, focal

    def check(self, output: tuple[int, ...], target: tuple[int, ...]) -> None:
        """Logits [B, C] for labels [B]."""
        if len(output) != 2 or output[:1] != target:
            super().check(output, target)
        if self.class_weights is not None and len(self.class_weights) != output[1]:
            raise ConfigError(f"cross_entropy: there are {len(self.class_weights)} class_weights for {output[1]} classes.")

    def measure(
        self, output: Float[Array, "B C"], target: Int[Array, " B"], here: Bool[Array, " B"]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """The mean over rows, by the weights of their classes; and how often the likeliest class is right."""
        log_p = jax.nn.log_softmax(output)
        factors = np.ones(output.shape[1]) if self.class_weights is None else np.array(self.class_weights)
        by_class = jnp.asarray(factors, jnp.float32)
        weight = jnp.where(here, by_class[target], 0.0)
        log_right = jnp.take_along_axis(log_p, target[:, None], axis=1)[:, 0]
        right = -weight * log_right * (confident(log_right) ** self.focal if self.focal else 1.0)
        spread = jnp.where(here, -(by_class[None] * log_p).mean(axis=1), 0.0)  # as PyTorch has it: weighted by each class's own
        rows = (1 - self.smoothing) * right + self.smoothing * spread
        total = weight.sum()
        loss = rows.sum() / jnp.where(total > 0, total, 1.0)
        accuracy = mean_of((output.argmax(axis=1) == target).astype(jnp.float32), here.astype(jnp.float32))
        return loss, total, {"accuracy": accuracy}

    @classmethod
    def tiny(cls) -> tuple[CrossEntropy, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the model's output beside the target."""
        rng = np.random.default_rng(0)
        logits, label = rng.normal(size=(8, 3)).astype(np.float32), rng.integers(0, 3, 8, dtype=np.int32)
        batch = {"label/logits": logits, "label": label, "label/present": np.arange(8) != 3}
        return cls(smoothing=0.1, class_weights=(1.0, 2.0, 0.5), learned_weight=True), batch
