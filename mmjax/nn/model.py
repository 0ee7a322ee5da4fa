"""A flax module as a pair of pure functions, `init` and `apply`: all that training and evaluation see of a model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import PRNGKeyArray

from mmjax.contract import BATCH_AXES, Batch, Outputs
from mmjax.nn.adapters import NAME as ADAPTERS
from mmjax.nn.adapters import Adapters
from mmjax.ops.layout import constrained


class ModuleModel:
    """`module(batch, train=...) -> outputs` as a model. Collections besides `params` are its statistics."""

    adapters: Adapters | None = None  # see `adapted`

    def __init__(self, module: nn.Module):
        self.module = module

    def adapted(self, adapters: Adapters) -> ModuleModel:
        """The same with adapters at its modules."""
        other = copy.copy(self)
        other.adapters = adapters
        return other

    def init(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Any]:
        """The variables: `params`, and whatever other collections the module has."""
        variables = dict(self.module.init(key, batch, train=False))
        if self.adapters is not None:
            own = self.adapters.init(key, self.module, batch, train=False)
            variables["params"] = {**variables["params"], ADAPTERS: own}
        return variables

    def apply(
        self, variables: Mapping[str, Any], batch: Batch, *, train: bool, rngs: Mapping[str, PRNGKeyArray] | None = None
    ) -> tuple[Outputs, dict[str, Any]]:
        """Outputs, and the statistics after this batch: unchanged unless `train`."""
        stats = {name: value for name, value in variables.items() if name != "params"}
        mutable = list(stats) if train else []
        with nullcontext() if self.adapters is None else self.adapters.applied(variables["params"][ADAPTERS]):
            outputs, new_stats = self.module.apply(variables, batch, train=train, rngs=dict(rngs or {}), mutable=mutable)
        outputs = jax.tree.map(lambda x: constrained(x, BATCH_AXES), outputs)
        return outputs, {**stats, **new_stats}
