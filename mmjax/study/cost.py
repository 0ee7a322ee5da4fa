"""What a run costs, as XLA counts it: nothing is timed and no data are read, so that it is the same on every day."""

from __future__ import annotations

from typing import Any

import jax

from mmjax.train.build import Parts
from mmjax.train.speed import flops_of


def cost(parts: Parts) -> dict[str, float]:
    """What a run costs, before anything of it is made; see `cost_of`."""
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        return cost_of(parts.step(shapes).trace(shapes, parts.training_shapes(shapes)), shapes.params, parts)


def cost_of(traced: Any, params: Any, parts: Parts) -> dict[str, float]:
    """`parameters` of the model, those `trained`, `step_flops` of a training step on a whole batch, and `peak_bytes`.

    Of a `traced` step. The operations are those of `speed.flops_of`: `batch_pp`, losses, backward pass and optimizer
    included. `peak_bytes` are the step's arguments, results and temporary arrays as the compiler lays them out.
    """
    compiled = traced.lower().compile()
    memory = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "parameters": float(_size(params["model"])),
        "trained": float(_size(parts.optimizer.split(params)[0])),
        "step_flops": flops_of(compiled, traced.jaxpr),
        "peak_bytes": float(kept + memory.temp_size_in_bytes),
    }


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
