"""Every modality should matter: the functional Fisher information of the answer about each of them is kept up.

Gat et al., 2020, 'Removing Bias in Multi-modal Classifiers: Regularization by Maximizing Functional Entropies', with any fusion.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmjax import contract
from mmjax.config import ConfigError
from mmjax.contract import Batch, Context, Loss, Outputs, fold_name
from mmjax.objectives._supervised import check_logits, mean_of
from mmjax.ops.masks import zero_where_not


class Rmfe:
    """A term for each modality, 1 / (I_m + floor) with I_m the mean of |grad_z f|^2 / f over the rows that have it.

    z are the tokens and the pooled vector that its encoder gave, with normal noise on all modalities of each feature's
    own deviation over the batch; f is the cross entropy of what the model says of them with what it says without noise,
    which gets no gradient. I_m, the functional Fisher information, bounds the functional entropy from above (the
    log-Sobolev inequality). The authors' code takes the norm over all rows of the inverses; the mean over rows comes
    before the inverse here, so that a row that nothing disturbs is no pole. The paper's `weight` is small, too.

    The noisy pass begins at the fusion, without the models' own dropout, and is differentiated twice: about two further
    steps of fusion and heads. Encoders get their share of its gradient.

    Args:
        target: whose logits, `<target>/logits` [B, C].
        floor: what the information is bounded by from below.
    """

    batch_wise = True  # a mean over rows stands under a fraction

    def __init__(self, target: str = "label", floor: float = 1e-3):
        if floor <= 0:
            raise ConfigError(f"rmfe: floor={floor} should be above 0.")
        self.target, self.output, self.floor = target, f"{target}/logits", floor

    def init(self, key: PRNGKeyArray, batch: Batch, outputs: Outputs) -> tuple[dict[str, Array], tuple]:
        """Nothing of its own.

        Raises:
            ConfigError: there are no such logits, no such target, or fewer than two modalities.
        """
        check_logits("rmfe", self.output, self.target, batch, outputs)
        return {}, ()

    def __call__(self, ctx: Context, outputs: Outputs, batch: Batch) -> Loss:
        """Terms by modality, and the information of each."""
        every = contract.streams(batch)
        here = {m: contract.present(batch, m) for m in every}
        some = jnp.stack([*here.values()]).any(axis=0)
        clean = jax.lax.stop_gradient(jax.nn.softmax(zero_where_not(some, outputs[self.output].astype(jnp.float32))))
        encoded = {m: (outputs[f"{m}/tokens"], outputs[f"{m}/pooled"]) for m in every}
        valid = {m: outputs.get(f"{m}/valid", jnp.ones(tokens.shape[:2], bool)) & here[m][:, None] for m, (tokens, _) in encoded.items()}
        noisy = {
            m: (_noisy(tokens, valid[m], fold_name(ctx.key, f"{m}/tokens")), _noisy(pooled, here[m], fold_name(ctx.key, f"{m}/pooled")))
            for m, (tokens, pooled) in encoded.items()
        }

        def f(z):
            given = {m: tokens for m, (tokens, _) in z.items()} | {f"{m}/pooled": pooled for m, (_, pooled) in z.items()}
            logits = self._forward(ctx, {**batch, **given, **{f"{m}/valid": v for m, v in valid.items()}})
            ce = -(clean * jax.nn.log_softmax(zero_where_not(some, logits.astype(jnp.float32)))).sum(axis=1)
            return zero_where_not(some, ce).sum(), ce

        grads, ce = jax.grad(f, has_aux=True)(noisy)
        terms, metrics, weights = {}, {}, []
        for m in every:
            squares = sum(jnp.where(here[m], jnp.square(g).reshape(len(ce), -1).sum(axis=1), 0.0) for g in grads[m])
            information = mean_of(squares / jnp.maximum(ce, 1e-6), here[m].astype(jnp.float32))
            weights.append(here[m].sum().astype(jnp.float32))
            terms[m] = jnp.where(weights[-1] > 0, 1 / (information + self.floor), 0.0)
            metrics[f"{m}/information"] = information
        return Loss(terms, jnp.stack(weights).max(), metrics)

    def _forward(self, ctx: Context, batch: Batch) -> Array:
        try:
            return ctx.forward(batch, train=False)[self.output]
        except (ScopeParamNotFoundError, ScopeParamShapeError) as error:
            raise ConfigError("rmfe: the fusion reads lower stages of encoders, which have no noise here. Take another fusion.") from error

    @classmethod
    def tiny(cls) -> tuple[Rmfe, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the model's outputs beside two streams and the target."""
        rng = np.random.default_rng(0)
        batch = {m: np.ones((8, 2), np.float32) for m in ("series_a", "series_b")}
        batch |= {f"{m}/tokens": rng.normal(size=(8, 2, 2)).astype(np.float32) for m in ("series_a", "series_b")}
        batch |= {f"{m}/pooled": rng.normal(size=(8, 2)).astype(np.float32) for m in ("series_a", "series_b")}
        batch |= {"label/logits": rng.normal(size=(8, 3)).astype(np.float32), "label": rng.integers(0, 3, 8, dtype=np.int32)}
        return cls(), {**batch, "series_a/present": np.arange(8) != 3}


def _noisy(x: Float[Array, "B ... D"], keep: Bool[Array, "B ..."], key: PRNGKeyArray) -> Float[Array, "B ... D"]:
    """`x` with normal noise of each feature's deviation over what is kept, which itself has no gradient."""
    x = zero_where_not(keep, x)
    rows = jnp.broadcast_to(keep[..., None], x.shape)
    std = jax.lax.stop_gradient(jnp.std(x, axis=tuple(range(x.ndim - 1)), keepdims=True, where=rows))
    std = jnp.where(keep.any(), std, 0.0).astype(x.dtype)  # of nothing it is nan
    return x + std * jax.random.normal(key, x.shape, x.dtype)
