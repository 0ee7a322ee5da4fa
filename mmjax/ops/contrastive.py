"""The arithmetic of contrastive losses, with several positives a row and rows that do not count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def softmax_loss(
    logits: Float[Array, "A B"], positive: Bool[Array, "A B"], rows: Bool[Array, " A"], columns: Bool[Array, " B"]
) -> Float[Array, ""]:
    """Cross-entropy of every row that counts to the even distribution over its positives, averaged over these rows.

    One positive a row is InfoNCE (van den Oord et al., 2018, eq. 4); several are Khosla et al., 2020, eq. 2. Columns
    that do not count are not in the normalisation. A row without a positive among the columns does not count.
    """
    positive = positive & columns[None, :]
    count = positive.sum(axis=1).astype(logits.dtype)
    rows = rows & (count > 0)
    logits = jnp.where(columns[None, :], logits, -1e30)
    log_p = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)
    per_row = -jnp.where(positive, log_p, 0.0).sum(axis=1) / jnp.maximum(count, 1)
    return jnp.where(rows, per_row, 0.0).sum() / jnp.maximum(rows.sum().astype(logits.dtype), 1)


def sigmoid_loss(
    logits: Float[Array, "A B"], positive: Bool[Array, "A B"], rows: Bool[Array, " A"], columns: Bool[Array, " B"]
) -> Float[Array, ""]:
    """Binary cross-entropy of every pair, summed, per row that counts: Zhai et al., 2023, 'Sigmoid Loss', eq. 1 and algorithm 1."""
    pairs = rows[:, None] & columns[None, :]
    per_pair = -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
    return jnp.where(pairs, per_pair, 0.0).sum() / jnp.maximum(rows.sum().astype(logits.dtype), 1)


@jax.custom_vjp
def bounded_above(x: Float[Array, ""], limit: Float[Array, ""] | float) -> Float[Array, ""]:
    """min(x, limit), whose gradient at the limit can still lower `x`; the plain minimum would leave it stuck there."""
    return jnp.minimum(x, limit)


bounded_above.defvjp(
    lambda x, limit: (jnp.minimum(x, limit), x >= limit),
    lambda at_limit, g: (jnp.where(at_limit, jnp.maximum(g, 0.0), g), None),
)
