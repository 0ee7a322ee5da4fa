"""Multimodal autoencoder: Ngiam et al., 2011, 'Multimodal Deep Learning', sec. 3; MFM: Tsai et al., 2019.

A joint code of all modalities' vectors, out of which every one of them is made again. As in Ngiam et al. the input lacks modalities
at random in training (`drop`), every choice being as probable, while the output has all that the row has: the code says what
is missing. The paper's units are pretrained as a Boltzmann machine, these are rectified and are not.

    mfm   'Learning Factorized Multimodal Representations', sec. 2: besides the joint code, which is to be read by the head, a
          private one a modality, which only its own decoder reads; each code is to look like N(0, 1) over the batch (`prior`)

`aux` has `reconstruction_<m>`, the mean squared error of each pooled vector, which gets no gradient as the target, and `prior`, the
sum over codes of their maximum mean discrepancy from N(0, 1), its kernel integrated over the prior, where the published code draws
from it, and narrower, exp(-|x - y|^2 / D): in training only, 0 in evaluation, and of each micro-batch where gradients are
accumulated. Codes are of vectors, not of sequences, and MFM's further network for missing modalities is left out: `drop` does the
same. Takes any number of modalities. Gaps: zeros stand in. Time: one vector a modality. Cost: four dense layers a modality, six
with private codes. For gaps, or little labelled and much unlabelled data.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not


class Autoencoder(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]; `private` is the width of private codes, 0 for none."""

    width: int = 256
    hidden: int = 256
    private: int = 0
    drop: bool = True
    prior: bool = False
    dtype: Dtype = "float32"

    variants = {"mfm": {"private": 64, "drop": False, "prior": True}}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, name=name)

        encodings, here = zero_absent(encodings), presence(encodings)
        seen = kept(self.make_rng("dropout"), here) if train and self.drop else here
        hidden, codes = [], []
        for i, (m, e) in enumerate(encodings.items()):
            hidden.append(zero_where_not(seen[:, i], nn.relu(dense(self.hidden, f"{m}_hidden")(e.pooled))))
            if self.private:
                codes.append(zero_where_not(seen[:, i], dense(self.private, f"{m}_code")(hidden[-1])))
        code = dense(self.width, "code")(jnp.concatenate(hidden, axis=1))
        fused, present, aux = nn.relu(dense(self.width, "factor")(code)), here.any(axis=1), {}
        for i, (m, e) in enumerate(encodings.items()):
            factors = [fused, nn.relu(dense(self.private, f"{m}_factor")(codes[i]))] if self.private else [fused]
            x = nn.relu(dense(self.hidden, f"{m}_decoder_hidden")(jnp.concatenate(factors, axis=1)))
            miss = dense(e.pooled.shape[1], f"{m}_decoder")(x).astype(jnp.float32) - jax.lax.stop_gradient(e.pooled)
            aux[f"reconstruction_{m}"] = zero_where_not(e.present, jnp.square(miss).mean(axis=1))
        if self.prior:
            own = [discrepancy(z.astype(jnp.float32), seen[:, i]) for i, z in enumerate(codes)]
            loss = discrepancy(code.astype(jnp.float32), present) + sum(own)
            aux["prior"] = zero_where_not(present, jnp.broadcast_to(loss if train else 0 * loss, present.shape))
        return Encoding.from_pooled(zero_where_not(present, fused), present)._replace(aux=aux)

    @classmethod
    def tiny(cls) -> tuple[Autoencoder, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=6, hidden=8, private=2, drop=False, prior=True), tiny_tokens(audio=(5, 6), text=(3, 4))


def kept(key: PRNGKeyArray, here: Bool[Array, "B M"]) -> Bool[Array, "B M"]:
    """For each row one of the choices, not empty, of what it has; every one is as probable."""
    choices = np.array([c for c in product((False, True), repeat=here.shape[1]) if any(c)])
    possible = (here[:, None] | ~choices[None]).all(axis=2)
    drawn = jax.random.categorical(key, jnp.where(possible, 0.0, -jnp.inf))
    return jnp.asarray(choices)[drawn] & here


def discrepancy(z: Float[Array, "B D"], here: Bool[Array, " B"]) -> Float[Array, ""]:
    """Squared MMD of the rows that are `here` and N(0, 1) for the kernel exp(-|x - y|^2 / D): Gretton et al., 2012, eq. 5.

    The kernel's means under the prior are (1 + 2/D)^(-D/2) exp(-|x|^2 / (D + 2)), and (1 + 4/D)^(-D/2).
    """
    z, d, n = zero_where_not(here, z), z.shape[1], jnp.maximum(here.sum(), 1).astype(jnp.float32)
    norm = jnp.square(z).sum(axis=1)
    kernel = jnp.exp(-(norm[:, None] + norm[None] - 2 * z @ z.T) / d)
    within = zero_where_not(here[:, None] & here[None], kernel).sum() / n**2
    across = zero_where_not(here, jnp.exp(-norm / (d + 2))).sum() / n * (1 + 2 / d) ** (-d / 2)
    return jnp.where(here.any(), within - 2 * across + (1 + 4 / d) ** (-d / 2), 0.0)
