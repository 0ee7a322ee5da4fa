"""From all modalities to each of them alone: what a model says of the whole row teaches what it says given a part.

Hinton et al., 2015, 'Distilling the Knowledge in a Neural Network', sec. 2, with the model itself as the teacher: modality by
modality the row is shown again without the others. For models that have to do with one modality at test time.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mmjax import contract
from mmjax.config import ConfigError, nearest
from mmjax.contract import Batch, Context, Loss, Outputs
from mmjax.objectives._supervised import alone, mean_of
from mmjax.ops.masks import zero_where_not


class Distillation:
    """A term for each modality: T^2 KL(teacher, student) of the logits' distributions at temperature T.

    Over the rows that have the modality and another one; no target is needed. The teacher's logits get no gradient. Each
    modality is one more pass of the model.

    Args:
        target: whose logits, `<target>/logits` [B, C].
        temperature: T.
        students: the modalities that learn, all by default.
    """

    batch_wise = False

    def __init__(self, target: str = "label", temperature: float = 2.0, students: Sequence[str] | None = None):
        if temperature <= 0:
            raise ConfigError(f"distillation: temperature={temperature} should be above 0.")
        self.output, self.temperature, self.students = f"{target}/logits", temperature, students

    def init(self, key: PRNGKeyArray, batch: Batch, outputs: Outputs) -> tuple[dict[str, Array], tuple]:
        """Nothing of its own.

        Raises:
            ConfigError: the model gives no such logits, or reads fewer than two modalities or none of the name of a student.
        """
        if self.output not in outputs:
            raise ConfigError(f"distillation: the model gives no {self.output!r}.{nearest(self.output, outputs)}")
        known = contract.streams(batch)
        if len(known) < 2:
            raise ConfigError("distillation: one modality alone has nobody to learn from.")
        for m in self.students or ():
            if m not in known:
                raise ConfigError(f"distillation.students: there is no modality {m!r}.{nearest(m, known)}")
        return {}, ()

    def __call__(self, ctx: Context, outputs: Outputs, batch: Batch) -> Loss:
        """Terms by modality."""
        every = contract.streams(batch)
        here = {m: contract.present(batch, m) for m in every}
        teacher = jax.lax.stop_gradient(outputs[self.output].astype(jnp.float32)) / self.temperature
        terms, weights = {}, []
        for m in self.students or every:
            student = ctx.forward(alone(batch, m), train=True)[self.output].astype(jnp.float32) / self.temperature
            rows = here[m] & jnp.stack([here[n] for n in every if n != m]).any(axis=0)
            p, q = (jax.nn.log_softmax(zero_where_not(rows, logits)) for logits in (teacher, student))
            terms[m] = self.temperature**2 * mean_of((jnp.exp(p) * (p - q)).sum(axis=1), rows.astype(jnp.float32))
            weights.append(rows.sum().astype(jnp.float32))
        return Loss(terms, jnp.stack(weights).max())

    @classmethod
    def tiny(cls) -> tuple[Distillation, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the model's logits beside two streams."""
        rng = np.random.default_rng(0)
        batch = {m: np.ones((8, 2), np.float32) for m in ("series_a", "series_b")}
        return cls(), {**batch, "label/logits": rng.normal(size=(8, 3)).astype(np.float32), "series_a/present": np.arange(8) != 3}
