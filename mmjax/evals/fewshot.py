"""Few-shot classification by the nearest mean of each class: Wang et al., 2019, 'SimpleShot', sec. 3, the variant CL2N."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmjax.config import ConfigError
from mmjax.contract import Artifact, Bars, State
from mmjax.data.split import SplitView
from mmjax.evals._features import Probe, Task
from mmjax.ops.classification import ranks, summary
from mmjax.ops.retrieval import unit


@dataclass(kw_only=True)
class Fewshot(Probe):
    """For every number of shots the mean over seeds, each of which draws other examples; `std` is their spread (n - 1).

    A class with fewer training examples gives all it has. Features are centred by the mean of all training features and
    have length 1; nothing is chosen on held-out examples.

    Args:
        shots: how many examples of each class.
        seeds: how many draws.
        stream, label, output, train, limit, baseline: as `Probe` says.
    """

    select: str | None = field(default=None, init=False)
    shots: Sequence[int] = (1, 2, 4, 8, 16)
    seeds: int = 5

    def __post_init__(self):
        super().__post_init__()
        if not self.shots or min(self.shots) < 1 or self.seeds < 1:
            raise ConfigError(f"fewshot: shots={tuple(self.shots)} and seeds={self.seeds} should be numbers of at least 1.")
        self.shots = sorted(self.shots)

    def measure(self, task: Task) -> tuple[dict[str, float], str]:
        """`<n>_shot/<name>` and, of several seeds, `<n>_shot/<name>/std`."""
        x, y = task.known
        middle = x.mean(axis=0)
        x, asked = unit(x - middle), unit(task.test.x - middle)
        figures = {}
        for n in self.shots:
            drawn = [drawn_shots(y, n, seed) for seed in range(self.seeds)]
            found = [_figures(x[rows], y[rows], asked, task) for rows in drawn]
            for name in found[0]:
                values = [f[name] for f in found]
                figures[f"{n}_shot/{name}"] = float(np.mean(values))
                if self.seeds > 1:
                    figures[f"{n}_shot/{name}/std"] = float(np.std(values, ddof=1))
        return figures, f"nothing; {self.seeds} seeds"

    def run(self, fns: Any, state: State, view: SplitView, *, step: int, details: bool) -> Iterator[tuple[str, float | Artifact]]:
        """As of every probe; with `details` the accuracy by the number of shots as a picture, too."""
        top1: dict[str, float] = {}
        for name, value in super().run(fns, state, view, step=step, details=details):
            yield name, value
            if "_shot/top1" in name and isinstance(value, float):
                top1[name] = value
        if details:
            levels = {"top1": "", **{level: f"/{level}" for level in ("chance", "majority", self.simple)}}
            series = {name: [top1.get(f"{n}_shot/top1{level}", math.nan) for n in self.shots] for name, level in levels.items()}
            series = {name: values for name, values in series.items() if not any(map(math.isnan, values))}
            yield "by_shots", Bars([str(n) for n in self.shots], series, ylabel="top1, by training examples a class")


def drawn_shots(y: Int[np.ndarray, " N"], n: int, seed: int) -> Int[np.ndarray, " M"]:
    """The rows of up to `n` examples of each class; more shots of a seed hold the fewer."""
    order = np.random.default_rng(seed).permutation(len(y))
    return np.concatenate([order[y[order] == c][:n] for c in np.unique(y)])


def _figures(x: Float[np.ndarray, "N D"], y: Int[np.ndarray, " N"], asked: Float[np.ndarray, "M D"], task: Task) -> dict[str, float]:
    """How often the nearest mean is the right one."""
    scores = np.full((len(asked), task.classes), -np.inf)
    for c in np.unique(y):
        mean = x[y == c].mean(axis=0)
        scores[:, c] = 2 * asked @ mean - mean @ mean  # minus the squared distance, but for what all classes share
    return summary(ranks(scores, task.test.y), task.test.y, task.classes)
