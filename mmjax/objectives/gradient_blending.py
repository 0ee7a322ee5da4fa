"""Losses of the fused head and of each modality's own, weighted by how well what they learn carries over to rows held out.

Wang et al., 2020, 'What Makes Training Multi-Modal Classification Networks Hard?', online Gradient-Blending, with any fusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmjax import contract
from mmjax.config import ConfigError
from mmjax.contract import Batch, Context, Loss, Outputs
from mmjax.objectives.unimodal import Unimodal

FUSED = "fused"


class GradientBlending(Unimodal):
    """A term for each head, those of the modalities (`model.unimodal=True`) and the fused one; stands in the place of its loss.

    Of every head k the losses on rows that are trained on and on rows that are held out are followed. From one window of
    `every` steps to the next G_k is the fall of the loss on rows held out and O_k the growth of its distance to that on
    rows trained on; then w_k = G_k / O_k^2, scaled to sum to 1 (the paper's proposition 1). A head whose loss on rows held
    out rises gets 0; where all do, the weights stay. In the first two windows they are equal. Terms are multiplied by the
    number of heads, so that equal weights are the plain sum.

    Rows are held out by their `key`, a share `heldout` of all keys, from all steps. Validation data are not looked at.

    Args:
        target: what is predicted.
        every: steps of a window, the paper's super-epoch.
        heldout: the share of training rows that weights are measured on and nothing is learned from.
        smallest: |O_k| counts as at least this much: where it is next to nothing, noise would decide.
        block: so many keys in a row are on one side, where neighbours show nearly the same, as windows of a recording do.
        of: arguments of the loss, that of the target's kind, such as smoothing=0.1.
    """

    def __init__(self, target: str = "label", every: int = 25, heldout: float = 0.1, smallest: float = 0.02, block: int = 1, **of: Any):
        if every < 1 or block < 1 or not 0 < heldout < 1 or smallest <= 0:
            raise ConfigError(
                f"gradient_blending: every={every} and block={block} should be at least 1, heldout={heldout} between 0 and 1, "
                f"smallest={smallest} above 0."
            )
        super().__init__(target, **of)
        self.every, self.heldout, self.smallest, self.block = every, heldout, smallest, block

    def init(self, key: PRNGKeyArray, batch: Batch, outputs: Outputs) -> tuple[dict[str, Array], dict[str, Array]]:
        """Equal weights, and no losses as yet.

        Raises:
            ConfigError: as `Unimodal`, or the model has no fused output.
        """
        own, _ = super().init(key, batch, outputs)
        if self._fused not in outputs:
            raise ConfigError(f"gradient_blending: the model gives no {self._fused!r}.")
        heads = len(self._heads(outputs))
        empty = jnp.zeros((heads, 2))  # on rows trained on, and on rows held out
        return own, {
            "weights": jnp.full(heads, 1 / heads),
            "sums": empty,
            "counts": empty,
            "before": empty,  # the mean losses of the last window
            "seen": jnp.zeros((), bool),  # whether there was one
            "closed": jnp.int32(0),  # the step at whose begin it was closed
        }

    @property
    def _fused(self) -> str:
        return f"{self.target}/{self.suffix}"

    def _heads(self, outputs: Outputs) -> dict[str, Array]:
        """{modality: its output}, and the fused one's."""
        return {FUSED: outputs[self._fused], **self._outputs(outputs)}

    def __call__(self, ctx: Context, outputs: Outputs, batch: Batch) -> Loss:
        """A weighted term a head; weights and losses as metrics."""
        if "mixup/partner" in outputs:
            raise ConfigError("gradient_blending: model.mixup mixes rows that are held out with others: take one of the two.")
        aux = self._rolled(ctx.aux, ctx.step)
        keys, labelled = contract.key(batch, self.target), contract.present(batch, self.target)
        held = chosen(keys // self.block, self.heldout)
        terms, metrics, losses, counts = {}, {}, [], []
        heads = self._heads(outputs)
        for i, (name, output) in enumerate(heads.items()):
            here = labelled if name == FUSED else labelled & contract.present(batch, name)
            loss, weight, more = self._of.measured(output, batch[self.target], here & ~held)
            other, other_weight, _ = self._of.measured(output, batch[self.target], here & held)
            terms[name] = len(heads) * aux["weights"][i] * loss
            losses.append(jnp.stack([loss, other]))
            counts.append(jnp.stack([weight, other_weight]))
            metrics |= {f"{name}/weight": aux["weights"][i], f"{name}/loss": loss, f"{name}/heldout_loss": other}
            metrics |= {f"{name}/{key}": value for key, value in more.items()}
        loss, count = jax.lax.stop_gradient((jnp.stack(losses), jnp.stack(counts)))
        aux = {**aux, "sums": aux["sums"] + loss * count, "counts": aux["counts"] + count}
        return Loss(terms, count[:, 0].max(), metrics, aux)

    def _rolled(self, aux: Mapping[str, Array], step: Int[Array, ""]) -> dict[str, Array]:
        """The state as a step begins, which may close a window; a window without rows of some head goes on to be the next one's part."""
        due = (step % self.every == 0) & (step > aux["closed"]) & (aux["counts"] > 0).all()  # of micro-batches the first closes it
        mean = aux["sums"] / jnp.maximum(aux["counts"], 1e-9)
        weights = jnp.where(aux["seen"], self.weighed(aux["weights"], aux["before"], mean), aux["weights"])
        empty = jnp.zeros_like(mean)
        after = {"weights": weights, "sums": empty, "counts": empty, "before": mean, "seen": jnp.ones((), bool), "closed": step}
        return {name: jnp.where(due, after[name], aux[name]) for name in after}

    def weighed(self, weights: Float[Array, " K"], before: Float[Array, "K 2"], after: Float[Array, "K 2"]) -> Float[Array, " K"]:
        """The new weights from the losses, on rows trained on and on rows held out, of two windows."""
        gained = jnp.maximum(before[:, 1] - after[:, 1], 0.0)
        overfit = (after[:, 1] - after[:, 0]) - (before[:, 1] - before[:, 0])
        found = gained / jnp.square(jnp.maximum(jnp.abs(overfit), self.smallest))
        total = found.sum()
        return jnp.where(total > 0, found / jnp.where(total > 0, total, 1.0), weights)

    @classmethod
    def tiny(cls) -> tuple[GradientBlending, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the model's outputs beside two streams and the target."""
        batch = Unimodal.tiny()[1]
        logits = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
        return cls(heldout=0.3), {**batch, "label/logits": logits, "label/key": np.arange(8, dtype=np.int32)}


def chosen(keys: Int[Array, " B"], share: float) -> Bool[Array, " B"]:
    """A share of all keys, always the same ones: by their hash (Fibonacci hashing: Knuth, 1998, sec. 6.4)."""
    hashed = keys.astype(jnp.uint32) * jnp.uint32(2_654_435_769)
    return hashed < jnp.uint32(round(share * 2**32))
