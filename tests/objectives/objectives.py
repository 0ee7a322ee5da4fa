"""An objective as a function of embeddings, for tests."""

import jax

from mmjax.testing.objectives import loss_of, outputs_of, value_and_grads

__all__ = ["loss_of", "start", "value_and_grads"]


def start(objective, batch):
    """The objective's own parameters and state on a batch whose streams double as the outputs `<m>/z`."""
    return objective.init(jax.random.key(0), batch, outputs_of(batch))
