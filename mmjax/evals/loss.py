"""The run's own losses on held-out data, beside those of a model that embeds everything alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from mmjax.contract import State
from mmjax.data.split import SplitView


class Loss:
    """Means over the split, weighted by how many examples each batch's terms are means over.

    A contrastive loss depends on how many examples are compared: figures are for the run's batch size, its last
    batch smaller. `chance` is the loss of outputs that are all zero: for a softmax over N pairs, log N.
    """

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float]]:
        """Yields `total` and every objective's terms; with `details` their chance level too."""
        for blind in (False, True)[: 2 if details else 1]:
            batches = jax.device_get([fns.losses(state, batch, blind) for batch in view.batches()])
            for name in batches[0]:
                weight = sum(b[name][1] for b in batches)
                mean = sum(b[name][0] * b[name][1] for b in batches) / max(weight, 1e-9)
                yield f"{name}/chance" if blind else name, float(mean)
