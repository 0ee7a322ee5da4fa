"""Ways to mix a sequence in time linear in its length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.ops.masks import zero_where_not


def linear_attention(
    query: Float[Array, "B M H D"], key: Float[Array, "B N H D"], value: Float[Array, "B N H E"], valid: Bool[Array, "B N"]
) -> Float[Array, "B M H E"]:
    """Attention whose similarity is a product of features, elu(x) + 1: Katharopoulos et al., 2020, 'Transformers are RNNs', eq. 4-7.

    The sums over keys are made once for all queries. Where nothing is valid the result is 0.
    """
    query, key = jax.nn.elu(query) + 1, zero_where_not(valid, jax.nn.elu(key) + 1)
    memory = jnp.einsum("bnhd,bnhe->bhde", key, zero_where_not(valid, value))
    total = jnp.einsum("bmhd,bhd->bmh", query, key.sum(axis=1))
    return jnp.einsum("bmhd,bhde->bmhe", query, memory) / (total + 1e-6)[..., None]


def selective_scan(
    u: Float[Array, "B N D"],
    delta: Float[Array, "B N D"],
    a: Float[Array, "D S"],
    b: Float[Array, "B N S"],
    c: Float[Array, "B N S"],
    reverse: bool = False,
) -> Float[Array, "B N D"]:
    """A state space whose step size, input and output depend on the input: Gu & Dao, 2023, 'Mamba', eq. 2-4 and algorithm 2.

    The state h_t = exp(delta_t a) h_(t-1) + delta_t b_t u_t, and what comes out is c_t h_t; as in the published code the input's
    part is discretised by a simple step. All positions at once, by an associative scan. A step of size 0 leaves the state as it is.
    """
    decay = jnp.exp(delta[..., None] * a[None, None])
    drive = (delta * u)[..., None] * b[:, :, None, :]

    def both(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    _, state = jax.lax.associative_scan(both, (decay, drive), reverse=reverse, axis=1)
    return jnp.einsum("bnds,bns->bnd", state, c)
