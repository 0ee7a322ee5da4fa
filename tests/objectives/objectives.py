"""An objective as a function of embeddings, for tests."""

import jax
import jax.numpy as jnp

from mmjax import contract
from mmjax.contract import Context


def start(objective, batch):
    """The objective's own parameters and state on a batch whose streams double as the outputs `<m>/z`."""
    return objective.init(jax.random.key(0), batch, outputs_of(batch))


def outputs_of(batch):
    return {f"{stream}/z": batch[stream] for stream in contract.streams(batch)}


def loss_of(objective, params, outputs, batch, aux=()):
    return objective(Context(params, aux, jnp.int32(0), jax.random.key(0), forward=lambda *args, **kwargs: outputs), outputs, batch)


def value_and_grads(objective):
    """(params, outputs, batch, aux) -> (total, loss), (gradients of the parameters, of the outputs)."""

    def total(params, outputs, batch, aux=()):
        loss = loss_of(objective, params, outputs, batch, aux)
        return sum(loss.terms.values()), loss

    return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
