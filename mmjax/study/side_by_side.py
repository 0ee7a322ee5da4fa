"""One config trained with several seeds or learning rates at once: one compiled step, one reading of what they share.

No checkpoints: a comparison goes on from the runs that are finished. On accelerators the step is vmapped over the runs.
On a CPU it is called for one after another, since a vmapped convolution is a grouped one there and slower than its
parts, and a loop inside of the program (`lax.map`) is slower still.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmjax.contract import State
from mmjax.data.loader import Data
from mmjax.study.cost import cost, cost_of
from mmjax.train.build import Parts, parts_of
from mmjax.train.evaluation import check_evaluators, evaluate
from mmjax.train.logging import TrainingError
from mmjax.train.pretrained import load_parts, with_parts
from mmjax.train.step import init_state, make_step

WARM = 2  # steps that are not timed


class Run(NamedTuple):
    """What tells one of the runs from the others."""

    seed: int
    lr: float = 1.0  # factor on the config's learning rate


def reads(config: Mapping[str, Any]) -> str:
    """What decides what a run reads: its data, and the frozen encoders that `data.encoded` streams went through."""
    encoded = config["data"].get("encoded", ())
    encoders, sources = config["model"].get("encoders", {}), config.get("init_from") or {}
    through = {m: (encoders.get(m), sources.get(m)) for m in encoded}
    return json.dumps([config["data"], config.get("seed", 0), through, config.get("mesh")], sort_keys=True, default=str)


class SideBySide:
    """A config ready to be trained; what is slow (reading, compiling, encoding) is done once for all runs.

    `data` are those of another one whose `reads` are the same: then reading and encoding were done before.

    `cost` is what a step of one run costs, once one was trained; see `cost.py`. `step_seconds` is how long one took on the
    mean, with the reading of its batch and without the first two, which compile.

    Raises:
        ConfigError, DataError: as `train` raises them, before the first step.
    """

    def __init__(self, config: Any, vmap: bool | None = None, data: Data | None = None):
        self.parts: Parts = parts_of(config, data=data)
        self.vmap = jax.default_backend() != "cpu" if vmap is None else vmap
        self.parts.data.encode(None)  # what was encoded for another run stays, for the time when these are at that point
        self.parts.open_data()
        with jax.set_mesh(self.parts.mesh):
            check_evaluators(self.parts)
            self._shapes = self.parts.state_shapes()
            self._pretrained = load_parts(self.parts, self._shapes)
            self._fitted = self.parts.data.fitted(self.parts.mesh)
            self._first = next(self.parts.data.train_batches(self.parts.mesh))
            self._encoded = not self.parts.data.encoded
        self._functions = self.parts.functions()
        model, objectives, optimizer, data = self.parts.model, self.parts.objectives, self.parts.optimizer, self.parts.data

        def step(state, batch, lr):
            return make_step(model, objectives, optimizer.scaled(lr), data.batch_pp)(state, batch)

        def init(key, batch, fitted):
            return init_state(key, batch, model, objectives, optimizer, data.batch_pp, fitted)

        placed = jax.tree.map(lambda s: s.sharding, self._shapes)
        self._init = jax.jit(init, out_shardings=placed)
        self._step = (
            jax.jit(jax.vmap(step), donate_argnums=0) if self.vmap else jax.jit(step, donate_argnums=0, out_shardings=(placed, None))
        )
        self._compiled: Any = None
        self._traced: Any = None
        self.cost: dict[str, float] = {}
        self.step_seconds = float("nan")

    def train(self, runs: Sequence[Run], steps: int | None = None) -> list[State]:
        """The states of the runs after their last step.

        Raises:
            TrainingError: the loss of a run is not finite.
        """
        steps = int(steps or self.parts.config["steps"])
        mesh = self.parts.mesh
        with jax.set_mesh(mesh):
            states = [self._begin(run) for run in runs]
            if not self._encoded:
                self.parts.encode(states[0])  # by frozen encoders, the same in all runs
                self._encoded = True
            batches = {run.seed: self.parts.data.reseeded(run.seed).train_batches(mesh) for run in runs}
            lrs = [jnp.float32(run.lr) for run in runs]
            losses, begun = None, time.monotonic()
            if self.vmap:
                stacked, lr = _stack(states), jnp.stack(lrs)
                del states
                for step in range(steps):
                    begun = _begun(step, losses, begun)
                    read = {seed: next(b) for seed, b in batches.items()}
                    stacked, metrics = self._step(stacked, _stack([read[run.seed] for run in runs]), lr)
                    losses = metrics["loss"]
                states = [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(runs))]
            else:
                for step in range(steps):
                    begun = _begun(step, losses, begun)
                    read = {seed: next(b) for seed, b in batches.items()}
                    if self._compiled is None:
                        self._traced = self._step.trace(states[0], read[runs[0].seed], lrs[0])
                        self._compiled = self._traced.lower().compile()
                    both = [self._compiled(s, read[run.seed], lr) for s, run, lr in zip(states, runs, lrs, strict=True)]
                    states = [state for state, _ in both]
                    losses = jnp.stack([metrics["loss"] for _, metrics in both])
            finite = jnp.isfinite(losses) if losses is not None else jnp.ones(len(runs), bool)
            for run, fine in zip(runs, jax.device_get(finite), strict=True):
                if not fine:
                    raise TrainingError(f"The loss of seed {run.seed} at {run.lr:g} × the learning rate is not finite after {steps} steps.")
        if steps > WARM:
            self.step_seconds = (time.monotonic() - begun) / (steps - WARM) / len(runs)
        self.cost = self.cost or (cost(self.parts) if self.vmap else cost_of(self._traced, self._shapes.params, self.parts))
        return states

    def measure(self, state: State, splits: Mapping[str, str], details: bool) -> dict[str, float]:
        """The numbers of the evaluators that `splits` names, each on its split, `<split>/<evaluator>/<name>`."""
        with jax.set_mesh(self.parts.mesh):
            return evaluate(self.parts, self._functions, state, step=int(state.step), splits=splits, details=details)[0]

    def _begin(self, run: Run) -> State:
        fitted, pretrained = jax.tree.map(jnp.copy, (self._fitted, self._pretrained))  # a step takes the memory of what it is given
        return with_parts(self._init(jax.random.key(run.seed), self._first, fitted), pretrained)


def _begun(step: int, losses: Any, begun: float) -> float:
    """When the steps that count began: once those before them are over."""
    if step != WARM:
        return begun
    jax.block_until_ready(losses)
    return time.monotonic()


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
