"""Losses of each modality's own head, beside that of the fused one: unimodal auxiliary heads, in use since Vielzeuf et al., 2018,
'CentralNet', eq. 4. They keep a modality that learns fast from starving the others (Wang et al., 2020, sec. 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mmjax import contract
from mmjax.config import ConfigError, check_call, nearest
from mmjax.contract import Batch, Context, Loss, Outputs
from mmjax.objectives._supervised import Supervised
from mmjax.objectives.bce import BCE
from mmjax.objectives.cross_entropy import CrossEntropy
from mmjax.objectives.regression import Regression

OF = {"label": CrossEntropy, "tags": BCE, "value": Regression}


class Unimodal:
    """A term for each output `<m>/<target>/logits` (or `/prediction`), over the rows that have both `<m>` and the target.

    The model gives such outputs with `unimodal=True`, and decision-level fusion always does.

    Args:
        target: what is predicted.
        weights: {modality: factor}; what it leaves out has 1.
        of: arguments of the loss, that of the target's kind, such as smoothing=0.1.
    """

    batch_wise = False

    def __init__(self, target: str = "label", weights: Mapping[str, float] | None = None, **of: Any):
        kind = target.split("_", 1)[0]
        if kind not in OF:
            raise ConfigError(f"unimodal: target={target!r} should begin with one of {', '.join(OF)}.")
        self.target, self.weights, self.suffix = target, dict(weights or {}), "prediction" if kind == "value" else "logits"
        self._of: Supervised = OF[kind](**check_call(OF[kind], {**of, "target": target}, f"objectives.{target}"))

    def _outputs(self, outputs: Outputs) -> dict[str, Array]:
        """{modality: its own output}."""
        end = f"/{self.target}/{self.suffix}"
        return {name.removesuffix(end): outputs[name] for name in sorted(outputs) if name.endswith(end)}

    def init(self, key: PRNGKeyArray, batch: Batch, outputs: Outputs) -> tuple[dict[str, Array], tuple]:
        """Nothing of its own.

        Raises:
            ConfigError: the model has no heads of modalities, or none of one that `weights` names.
        """
        found = self._outputs(outputs)
        if not found:
            raise ConfigError(f"unimodal: the model gives no <modality>/{self.target}/{self.suffix}: set model.unimodal=True.")
        for m in self.weights:
            if m not in found:
                raise ConfigError(f"unimodal.weights: {m!r} has no head.{nearest(m, found)}")
        if self.target not in batch:
            raise ConfigError(f"unimodal: the data have no {self.target!r}: let data.pp read it.")
        return {}, ()

    def __call__(self, ctx: Context, outputs: Outputs, batch: Batch) -> Loss:
        """A weighted term a modality, and what the losses and accuracies are without the weights."""
        terms, metrics, weights = {}, {}, []
        for m, output in self._outputs(outputs).items():
            here = contract.present(batch, self.target) & contract.present(batch, m)
            loss, weight, more = self._of.measured(output, batch[self.target], here)
            terms[m] = self.weights.get(m, 1.0) * loss
            weights.append(weight)
            metrics |= {f"{m}/loss": loss, **{f"{m}/{key}": value for key, value in more.items()}}
        return Loss(terms, jax.lax.stop_gradient(jnp.stack(weights).max()), metrics)

    @classmethod
    def tiny(cls) -> tuple[Unimodal, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the model's outputs beside two streams and the target."""
        rng = np.random.default_rng(0)
        batch = {f"{m}/label/logits": rng.normal(size=(8, 3)).astype(np.float32) for m in ("series_a", "series_b")}
        batch |= {m: np.ones((8, 2), np.float32) for m in ("series_a", "series_b")}
        batch |= {"label": rng.integers(0, 3, 8, dtype=np.int32), "series_a/present": np.arange(8) != 3, "label/present": np.arange(8) != 5}
        return cls(weights={"series_a": 0.5}), batch
