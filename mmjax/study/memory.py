"""What training needs of a device's memory: as a compiled program has it, or estimated from shapes."""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from mmjax.config import UserError, changed, plain, resolve
from mmjax.contract import BATCH_AXES, State
from mmjax.study.ahead import Batch, ambient, lowered, planned, shapes_of
from mmjax.train.build import Parts
from mmjax.train.chips import Chip
from mmjax.train.step import make_loss


class Needs(NamedTuple):
    """Bytes on each device, by what they are for. They add up to the peak."""

    parameters: int
    optimizer: int
    average: int  # the parameters' moving average
    other: int  # statistics, objectives' own state, what is fitted
    batches: int  # the step's, and those that are ready or under way
    activations: int  # all that lives only within a step: activations, gradients, scratch
    program: int  # the compiled code

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(self)

    @property
    def state(self) -> int:
        """What is carried from step to step."""
        return self.parameters + self.optimizer + self.average + self.other


def limit(chip: Chip) -> int:
    """Bytes of a chip's memory that training may take; of a GPU's, the share that XLA_PYTHON_CLIENT_MEM_FRACTION names."""
    share = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION")
    return int(chip.memory * float(share)) if share and chip.platform == "gpu" else chip.usable


def kept(parts: Parts, shapes: State, batch: Batch, activations: int = 0, program: int = 0) -> Needs:
    """What stays on each device between steps, by shapes and shardings, and the rest as it is given."""
    ready = parts.data.prefetch + 1  # one more is made while the queue is full
    return Needs(
        parameters=size(shapes.params),
        optimizer=size(shapes.opt),
        average=size(shapes.ema),
        other=size((shapes.stats, shapes.aux, shapes.fitted, shapes.key, shapes.step)),
        batches=(1 + ready) * size(batch),
        activations=activations,
        program=program,
    )


def size(tree: Any) -> int:
    """Bytes on each device of arrays of these shapes and shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def of_program(parts: Parts, options: dict[str, Any] | None = None) -> Needs:
    """As the compiler for the devices of the mesh lays it out; `options` are the compiler's.

    What the compiler adds to the arguments, such as filling up tiles, is among the `activations`.

    Raises:
        UserError: the compiler gives up, and does not say how much it would have needed.
    """
    step, state, batch = lowered(parts)
    least = kept(parts, state, batch)
    try:
        program = step.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        wanted = exhausted(str(error))
        if wanted is None:
            raise UserError(f"The compiler gave up: {str(error).splitlines()[0]}") from error
        return least._replace(activations=max(wanted - least.state - size(batch), 0))
    found: Any = program.memory_analysis()
    arrays = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes
    return least._replace(activations=arrays - least.state - size(batch), program=found.generated_code_size_in_bytes)


_WANTED = (
    r"total memory required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM",
    r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm",
)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def exhausted(error: str) -> int | None:
    """The bytes that a program would have needed, as the TPU's compiler says when the memory does not suffice; None if it does not."""
    found = next((match for pattern in _WANTED if (match := re.search(pattern, error))), None)
    return int(float(found[1]) * 2 ** _UNITS[found[2]]) if found else None


SCRATCH = 1.5  # what a program has at once, for each byte that the backward pass needs kept


def estimated(config: Any, mesh: Mapping[str, int]) -> Needs:
    """By shapes alone, of a config on a mesh {axis: size}.

    Activations are what the backward pass keeps of the forward pass, and a gradient for every trained parameter. Compilers keep
    less than differentiation does by itself: blocks of transformers are taken to keep their products ("all_dots"), from which all
    else is computed again, unless the config rematerialises more. What is neither transformer nor rematerialised is counted whole.
    Half as much again is added for scratch, which makes it a sixth too much to a sixth too little for CLIP's and SigLIP's recipes
    on 256 v5e, beside what their programs need; lit_coco, whose activations are few, takes twice as much.
    """
    config = changed(plain(config), {f"{path}.remat": "all_dots" for path in rematerialisable(config)})
    parts = planned(config, mesh, None)
    with ambient(parts.mesh):
        shapes, batch = shapes_of(parts)
        trained = parts.optimizer.split(shapes.params)[0]
        rows = parts.data.batch_size // max(parts.optimizer.accumulate, parts.optimizer.cache)
        once, twice = (_residuals(parts, trained, shapes, batch, n) for n in (rows, 2 * rows))
    over = math.prod(parts.mesh.shape[axis] for axis in BATCH_AXES)
    grown = [x for x, y in zip(once, twice, strict=True) if x.shape != y.shape]  # what depends on the batch is split as it is
    held = sum(x.size * x.dtype.itemsize for x in grown) // over
    return kept(parts, shapes, batch, activations=int(SCRATCH * held) + size(trained))


def _residuals(parts: Parts, trained: Any, state: State, batch: Batch, rows: int) -> list[Any]:
    """What differentiation keeps of the forward pass of a batch of so many rows."""
    some = {name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for name, x in batch.items()}
    loss = make_loss(parts.model, parts.objectives, parts.optimizer, parts.data.batch_pp)
    backward = lambda trained, state, some: jax.vjp(lambda trained: loss(trained, state, some), trained)[1]  # noqa: E731
    return jax.tree.leaves(jax.eval_shape(backward, trained, state, some))


def rematerialisable(config: Any) -> list[str]:
    """Paths of the encoders that take `remat`, and keep everything."""
    encoders = {name: node for name, node in plain(config)["model"].get("encoders", {}).items() if isinstance(node, Mapping)}
    takes = {name: inspect.signature(resolve("encoders", node["name"])).parameters for name, node in encoders.items()}
    return [f"model.encoders.{name}" for name, node in encoders.items() if "remat" in takes[name] and not node.get("remat")]
