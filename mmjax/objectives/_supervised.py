"""What losses of predictions against targets share: rows without a target, and weights that are learned."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmjax import contract
from mmjax.config import ConfigError, nearest
from mmjax.contract import Batch, Context, Loss, Outputs
from mmjax.ops.masks import zero_where_not


def mean_of(rows: Float[Array, " B"], weight: Float[Array, " B"]) -> Float[Array, ""]:
    """The weighted mean; 0 where nothing has weight."""
    total = weight.sum()
    return (rows * weight).sum() / jnp.where(total > 0, total, 1.0)


def confident(log_p: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """1 - p, as the focal loss has it; above 0, where a power has a gradient."""
    return jnp.maximum(-jnp.expm1(log_p), 1e-7)


def alone(batch: Batch, modality: str) -> Batch:
    """The batch as of rows that have this modality and no other."""
    return {**batch, **{f"{m}/present": jnp.zeros_like(contract.present(batch, m)) for m in contract.streams(batch) if m != modality}}


def check_logits(name: str, output: str, target: str, batch: Batch, outputs: Outputs) -> None:
    """What an objective that compares modalities by their answers needs.

    Raises:
        ConfigError: the model gives no such logits, there is no such target, or fewer than two modalities.
    """
    if output not in outputs:
        raise ConfigError(f"{name}: the model gives no {output!r}.{nearest(output, outputs)}")
    if target not in batch:
        raise ConfigError(f"{name}: the data have no {target!r}: let data.pp read it.")
    if len(contract.streams(batch)) < 2:
        raise ConfigError(f"{name}: there is one modality alone, and nothing to compare it with.")


class Supervised:
    """A loss of one output against one target, over the rows that have the target.

    With `learned_weight` the task's uncertainty is a parameter s = log variance, and its term is exp(-s) * loss + s / 2
    (for `gaussian` losses exp(-s) / 2 * loss + s / 2): several such objectives together are Kendall et al., 2018,
    'Multi-Task Learning Using Uncertainty to Weigh Losses', eq. 7 and 10. `<term>/weight` is then the factor of the loss.
    """

    batch_wise = False
    kind = "label"  # of targets
    suffix = "logits"  # of outputs
    gaussian = False

    def __init__(self, target: str, output: str | None, learned_weight: bool):
        if target.split("_", 1)[0] != self.kind:
            raise ConfigError(f"{self._name}: target={target!r} should be a {self.kind!r}, as in '{self.kind}_task'.")
        self.target, self.output, self.learned_weight = target, output or f"{target}/{self.suffix}", learned_weight

    @property
    def _name(self) -> str:
        return type(self).__name__

    def init(self, key: PRNGKeyArray, batch: Batch, outputs: Outputs) -> tuple[dict[str, Array], tuple]:
        """The log variance, where it is learned.

        Raises:
            ConfigError: the model has no such output, the data no such target, or their shapes do not fit.
        """
        if self.output not in outputs:
            raise ConfigError(f"{self._name}: the model gives no {self.output!r}.{nearest(self.output, outputs)}")
        if self.target not in batch:
            known = [name for name in batch if "/" not in name]
            raise ConfigError(f"{self._name}: the data have no {self.target!r}: let data.pp read it.{nearest(self.target, known)}")
        self.check(outputs[self.output].shape, batch[self.target].shape)
        return ({"log_variance": jnp.zeros(())} if self.learned_weight else {}), ()

    def check(self, output: tuple[int, ...], target: tuple[int, ...]) -> None:
        """Whether an output's shape fits a target's."""
        if output != target:
            raise ConfigError(f"{self._name}: {self.output!r} has the shape {output} and the target {target}: see model.heads.")

    def measure(
        self, output: Float[Array, "B ..."], target: Any, here: Bool[Array, " B"]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """The loss over the rows that are `here`, the weight that it is a mean over, and metrics. What is not here is 0 already."""
        raise NotImplementedError

    def measured(self, output: Float[Array, "B ..."], target: Any, here: Bool[Array, " B"]) -> tuple[Array, Array, dict[str, Array]]:
        """`measure`, of whatever stands where nothing is."""
        return self.measure(zero_where_not(here, output.astype(jnp.float32)), zero_where_not(here, target), here)

    def __call__(self, ctx: Context, outputs: Outputs, batch: Batch) -> Loss:
        """One term, called like the target; of rows that the model mixed, both rows' targets by their shares."""
        here = contract.present(batch, self.target)
        output, target = outputs[self.output], batch[self.target]
        if (partner := outputs.get("mixup/partner")) is None:
            loss, weight, metrics = self.measured(output, target, here)
        else:
            share, both = outputs["mixup/share"][0], here & here[partner]
            own, other = (self.measured(output, y, both) for y in (target, target[partner]))
            loss, weight, metrics = share * own[0] + (1 - share) * other[0], own[1], own[2]
        if self.learned_weight:
            s = ctx.params["log_variance"]
            factor = jnp.exp(-s) * (0.5 if self.gaussian else 1.0)
            metrics |= {"loss": loss, "weight": factor}
            loss = jnp.where(weight > 0, factor * loss + s / 2, 0.0)
        return Loss({self.target: loss}, jax.lax.stop_gradient(weight), {f"{self.target}/{key}": value for key, value in metrics.items()})
