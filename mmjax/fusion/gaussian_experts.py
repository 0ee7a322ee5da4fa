"""Gaussian experts (MVAE, MMVAE, MoPoE): Wu & Goodman, 2018; Shi et al., 2019; Sutter et al., 2021.

Every modality says where a latent z lies, as a Gaussian, and the posterior is a mixture of products of them:

    MVAE   the product of all that are there and of the prior N(0, 1) ('Multimodal Generative Models for Scalable
           Weakly-Supervised Learning', sec. 2): precisions add up, and means are weighted by them
    MMVAE  an even mixture of the modalities' own ('Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative
           Models', sec. 3)
    MoPoE  an even mixture of the products of every subset of the modalities that are there ('Generalized Multimodal ELBO', sec. 3)

Trained on a draw of z (of a mixture, from a component that is drawn first), and evaluated at the posterior's mean. `aux` has the
terms of the negative ELBO, in nats: `kl` to the prior, of a mixture the mean over its components, an upper bound (Sutter et al.),
and `reconstruction_<m>` of each pooled vector by a decoder with unit variance, up to a constant; the vectors, the papers' data, get
no gradient as its targets. Weigh all of them alike in the objective `auxiliary`, by about one over the features. MMVAE's importance
weights are left out. MVAE's sub-sampled ELBOs, which it needs to work with fewer modalities, are what modality dropout in the data
makes. Takes any number of modalities. Gaps: left out. Time: one vector a modality. Cost: four dense layers a modality; 2^M - 1
products for MoPoE. For gaps, and where a fused vector should say how sure it is; a mixture where the product trusts one modality
too much.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not

COMPONENTS = ("all", "modalities", "subsets")
BOUND = 10.0  # of log variances: a precision stays finite


class GaussianExperts(nn.Module):
    """Pooled vectors [B, D_m] to z [B, width]; what is a product in the posterior: "all", each of "modalities" or of "subsets"."""

    width: int = 64
    hidden: int = 256
    components: str = "all"
    dtype: Dtype = "float32"

    variants = {"poe": {"components": "all"}, "moe": {"components": "modalities"}, "mopoe": {"components": "subsets"}}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.components not in COMPONENTS:
            raise ConfigError(f"fusion.components={self.components!r} is unknown.{nearest(self.components, COMPONENTS)}")
        encodings = zero_absent(encodings)
        here = presence(encodings)
        experts = [self._mlp(e.pooled, 2 * self.width, f"{m}_encoder").astype(jnp.float32) for m, e in encodings.items()]
        means, log_variances = jnp.split(jnp.stack(experts, axis=1), 2, axis=2)  # [B,M,width]
        precisions = jnp.exp(-jnp.clip(log_variances, -BOUND, BOUND))
        mean, variance, possible = posterior(means, precisions, here, self.components)
        pooled = masked_mean(mean, possible)
        if train:
            choice, noise = jax.random.split(self.make_rng("dropout"))
            drawn = jax.random.categorical(choice, jnp.where(possible, 0.0, -jnp.inf))[:, None, None]
            chosen, spread = (jnp.take_along_axis(x, drawn, axis=1)[:, 0] for x in (mean, jnp.sqrt(variance)))
            pooled = chosen + spread * jax.random.normal(noise, chosen.shape)

        aux = {"kl": masked_mean(divergence(mean, variance)[:, :, None], possible)[:, 0]}
        pooled, present = zero_where_not(here.any(axis=1), pooled).astype(self.dtype), here.any(axis=1)
        for m, e in encodings.items():
            miss = self._mlp(pooled, e.pooled.shape[1], f"{m}_decoder").astype(jnp.float32) - jax.lax.stop_gradient(e.pooled)
            aux[f"reconstruction_{m}"] = zero_where_not(e.present, 0.5 * jnp.square(miss).sum(axis=1))
        return Encoding.from_pooled(pooled, present)._replace(aux=aux)

    def _mlp(self, x: Float[Array, "B D"], width: int, name: str) -> Float[Array, "B E"]:
        x = nn.swish(nn.Dense(self.hidden, dtype=self.dtype, name=f"{name}_hidden")(x))
        return nn.Dense(width, dtype=self.dtype, name=name)(x)

    @classmethod
    def tiny(cls) -> tuple[GaussianExperts, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=4, hidden=8), tiny_tokens(audio=(5, 6), text=(3, 4))


def posterior(
    means: Float[Array, "B M D"], precisions: Float[Array, "B M D"], here: Bool[Array, "B M"], components: str
) -> tuple[Float[Array, "B C D"], Float[Array, "B C D"], Bool[Array, "B C"]]:
    """Mean and variance of every product in the mixture, and which of them a row can have; the prior is in "all" alone."""
    m = here.shape[1]
    every = np.array([s for s in product((False, True), repeat=m) if any(s)])  # subsets, as masks [2^M-1,M]
    members = {"all": np.ones((1, m), bool), "modalities": np.eye(m, dtype=bool), "subsets": every}[components]
    whole = components == "all"
    possible = here.any(axis=1, keepdims=True) if whole else (here[:, None] | ~members[None]).all(axis=2)
    precisions = zero_where_not(here, precisions)
    total = jnp.einsum("cm,bmd->bcd", members.astype(np.float32), precisions)
    mean = jnp.einsum("cm,bmd->bcd", members.astype(np.float32), precisions * means)
    total = total + 1 if whole else jnp.where(possible[:, :, None], total, 1.0)
    return mean / total, 1 / total, possible


def divergence(mean: Float[Array, "*B D"], variance: Float[Array, "*B D"]) -> Float[Array, "*B"]:
    """Of Gaussians from N(0, 1), in nats."""
    return 0.5 * (jnp.square(mean) + variance - 1 - jnp.log(variance)).sum(axis=-1)
