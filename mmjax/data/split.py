"""One split of a run's data, as evaluators read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax.data.examples import Examples
from mmjax.data.loader import Data


class SplitView(NamedTuple):
    """What an evaluator sees of the data: one split, on the mesh."""

    data: Data
    mesh: Mesh
    split: str

    def other(self, split: str) -> SplitView:
        """Another split of the same data."""
        return self._replace(split=split)

    def batches(
        self,
        pp: Mapping[str, str] | None = None,
        *,
        items: str | None = None,
        rows: Sequence[int] | np.ndarray | None = None,
        kept: bool = True,
    ) -> Iterator[dict[str, jax.Array]]:
        """The split, or some `rows` of it, once and in order; `pp` replaces the run's operations and may name fewer streams."""
        return self.data.eval_batches(self.mesh, self.split, pp, items=items, rows=rows, kept=kept)

    def given(self, stream: str, values: Sequence[Any]) -> Iterator[dict[str, jax.Array]]:
        """Batches of one stream, of `values` instead of what the source has: prompts, for one."""
        return self.data.given(self.mesh, stream, values)

    def classes(self, label: str) -> Sequence[str] | None:
        """The names of a label's classes, where the source has them."""
        return self.data.classes(self.split, label)

    def examples(self, pp: Mapping[str, str] | None = None, *, items: str | None = None) -> Examples:
        """The rows behind `batches`, in the same order, on the host."""
        return self.data.examples(self.split, pp, items=items)
