"""A flax module as two pure functions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.nn.model import ModuleModel


class Counter(nn.Module):
    @nn.compact
    def __call__(self, batch, *, train):
        seen = self.variable("seen", "rows", jnp.zeros, (), jnp.int32)
        if train:
            seen.value = seen.value + len(batch["series"])
        return {"series/z": nn.Dense(2)(batch["series"])}


def test_statistics_change_in_training_only():
    model, batch = ModuleModel(Counter()), {"series": jnp.ones((3, 4))}
    variables = model.init(jax.random.key(0), batch)
    assert set(variables) == {"params", "seen"}
    outputs, stats = model.apply(variables, batch, train=False)
    assert outputs["series/z"].shape == (3, 2)
    assert stats["seen"]["rows"] == 0
    _, stats = model.apply(variables, batch, train=True)
    assert stats["seen"]["rows"] == 3
    assert variables["seen"]["rows"] == 0
