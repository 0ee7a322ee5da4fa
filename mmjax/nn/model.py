"""A flax module as a pair of pure functions, `init` and `apply`: all that training and evaluation see of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import PRNGKeyArray

from mmjax.contract import Batch, Outputs


class ModuleModel:
    """`module(batch, train=...) -> outputs` as a model. Collections besides `params` are its statistics."""

    def __init__(self, module: nn.Module):
        self.module = module

    def init(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Any]:
        """The variables: `params`, and whatever other collections the module has."""
        return dict(self.module.init(key, batch, train=False))

    def apply(
        self, variables: Mapping[str, Any], batch: Batch, *, train: bool, rngs: Mapping[str, PRNGKeyArray] | None = None
    ) -> tuple[Outputs, dict[str, Any]]:
        """Outputs, and the statistics after this batch: unchanged unless `train`."""
        stats = {name: value for name, value in variables.items() if name != "params"}
        mutable = list(stats) if train else []
        outputs, new_stats = self.module.apply(variables, batch, train=train, rngs=dict(rngs or {}), mutable=mutable)
        return outputs, {**stats, **new_stats}
