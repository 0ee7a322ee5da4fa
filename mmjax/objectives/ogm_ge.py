"""On-the-fly gradient modulation: the encoder of a modality that is ahead of the others learns more slowly for now.

Peng et al., 2022, 'Balanced Multimodal Learning via On-the-fly Gradient Modulation', with any fusion and any number of
modalities. It adds nothing to the loss: it changes the gradients that the other objectives give.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mmjax import contract
from mmjax.config import ConfigError
from mmjax.contract import Batch, Context, Loss, Outputs, fold_name
from mmjax.objectives._supervised import alone, check_logits, mean_of
from mmjax.ops.masks import zero_where_not


class OgmGe:
    """Multiplies the gradients of the encoder of `<m>` by k_m, and adds noise of their own deviation.

    s_m is the mean probability of the right class that the model gives when it is shown `<m>` alone, over the rows that
    have it; rho_m is s_m over the mean of the other modalities'. k_m = 1 - tanh(alpha * rho_m) where rho_m > 1, elsewhere 1.
    The paper has two modalities and a linear classifier on both, whose logits it cuts into a part of each: nearly what
    such a model says of one alone.

    Each modality costs one more forward pass, without dropout, and no backward pass. A frozen encoder stays as it is; one that
    streams share is moved by the stream whose name it has. Adam takes out a factor that stays the same: what is left
    under it is the factor's change. The paper used SGD.

    Args:
        target: a `label...` whose logits, `<target>/logits` [B, C], are the model's.
        alpha: how much a modality that is ahead is slowed down.
        noise: whether normal noise is added, of the standard deviation of each array of gradients (OGM-GE) or none (OGM).
        stop: the step from which on gradients are left alone; None is never.
    """

    batch_wise = True  # scores are of the batch

    def __init__(self, target: str = "label", alpha: float = 0.5, noise: bool = True, stop: int | None = None):
        if alpha <= 0:
            raise ConfigError(f"ogm_ge: alpha={alpha} should be above 0.")
        self.target, self.output, self.alpha, self.noise, self.stop = target, f"{target}/logits", alpha, noise, stop

    def init(self, key: PRNGKeyArray, batch: Batch, outputs: Outputs) -> tuple[dict[str, Array], dict[str, Array]]:
        """The factor of every modality, 1 before the first step.

        Raises:
            ConfigError: there are no such logits, no such target, or fewer than two modalities.
        """
        check_logits("ogm_ge", self.output, self.target, batch, outputs)
        return {}, {m: jnp.ones(()) for m in contract.streams(batch)}

    def __call__(self, ctx: Context, outputs: Outputs, batch: Batch) -> Loss:
        """No terms; what each modality reaches alone, and its factor."""
        scores, labelled = {}, contract.present(batch, self.target)
        for m in contract.streams(batch):
            logits = jax.lax.stop_gradient(ctx.forward(alone(batch, m), train=False)[self.output])
            here = labelled & contract.present(batch, m)
            p = jax.nn.softmax(zero_where_not(here, logits.astype(jnp.float32)))
            label = zero_where_not(here, batch[self.target])
            scores[m] = mean_of(jnp.take_along_axis(p, label[:, None], axis=1)[:, 0], here.astype(jnp.float32))
        factors = self.factors(scores)
        if self.stop is not None:
            factors = {m: jnp.where(ctx.step < self.stop, k, 1.0) for m, k in factors.items()}
        metrics = {f"{m}/score": s for m, s in scores.items()} | {f"{m}/factor": k for m, k in factors.items()}
        return Loss({}, jnp.float32(len(labelled)), metrics, factors)

    def factors(self, scores: dict[str, Float[Array, ""]]) -> dict[str, Float[Array, ""]]:
        """k_m of every modality."""
        others = {m: jnp.stack([s for n, s in scores.items() if n != m]).mean() for m in scores}
        ratio = {m: s / jnp.maximum(others[m], 1e-8) for m, s in scores.items()}
        return {m: jnp.where(rho > 1, 1 - jnp.tanh(self.alpha * rho), 1.0) for m, rho in ratio.items()}

    def modulate(self, grads: Any, aux: dict[str, Array], key: PRNGKeyArray, step: Array) -> Any:
        """The gradients of all parameters with those of encoders changed."""
        model = dict(grads["model"])
        on = 1.0 if self.stop is None else jnp.where(step < self.stop, 1.0, 0.0)
        for m, k in aux.items():
            leaves, tree = jax.tree.flatten(model.get(m, {}))
            keys = jax.random.split(fold_name(key, m), max(len(leaves), 1))
            changed = [k.astype(g.dtype) * g for g in leaves]
            if self.noise:
                drawn = [on * g.std() * jax.random.normal(own, g.shape, g.dtype) for g, own in zip(leaves, keys, strict=False)]
                changed = [g + e.astype(g.dtype) for g, e in zip(changed, drawn, strict=True)]
            model |= {m: jax.tree.unflatten(tree, changed)} if leaves else {}
        return {**grads, "model": model}

    @classmethod
    def tiny(cls) -> tuple[OgmGe, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the model's logits beside two streams and the target."""
        rng = np.random.default_rng(0)
        batch = {m: np.ones((8, 2), np.float32) for m in ("series_a", "series_b")}
        batch |= {"label/logits": rng.normal(size=(8, 3)).astype(np.float32), "label": rng.integers(0, 3, 8, dtype=np.int32)}
        return cls(), {**batch, "series_a/present": np.arange(8) != 3}
