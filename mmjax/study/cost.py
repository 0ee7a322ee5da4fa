"""What a run costs, as XLA counts it: nothing is timed and no data are read, so that it is the same on every day."""

from __future__ import annotations

from typing import Any

import jax

from mmjax.train.build import Parts


def cost(parts: Parts) -> dict[str, float]:
    """What a run costs, before anything of it is made; see `cost_of`."""
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        step = parts.step(shapes).lower(shapes, parts.training_shapes(shapes)).compile()
        return cost_of(step, shapes.params, parts)


def cost_of(step: Any, params: Any, parts: Parts) -> dict[str, float]:
    """`parameters` of the model, those `trained`, `step_flops` of a training step on a whole batch, and `peak_bytes`.

    Of a compiled `step`. The operations are XLA's count: `batch_pp`, losses, backward pass and optimizer included; a loop
    inside of it (`scan`) is counted once. `peak_bytes` are the step's arguments, results and temporary arrays as the
    compiler lays them out.
    """
    counted, memory = step.cost_analysis(), step.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "parameters": float(_size(params["model"])),
        "trained": float(_size(parts.optimizer.split(params)[0])),
        "step_flops": float(counted["flops"]),
        "peak_bytes": float(kept + memory.temp_size_in_bytes),
    }


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
