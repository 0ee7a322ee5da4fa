"""A config's training step, compiled ahead of time for a mesh of chips that need not be there.

TPUs: by the compiler in libtpu, for the topology (`jax.experimental.topologies`). GPUs: on the GPUs themselves.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from mmjax import config as configs
from mmjax.config import UserError
from mmjax.contract import BATCH_AXES, MESH_AXES, State
from mmjax.data.sources.stand_in import stands_in
from mmjax.train.build import Parts, parts_of
from mmjax.train.chips import Chip
from mmjax.train.sharding import check_batch_size

INSTALL = "pip install -r requirements-tpu.txt"
# XLA's options for a program that is compiled in a fifth of the time, more or less: products are computed as they are otherwise, but
# nothing is planned ahead of them into the chip's own fast memory. It needs about as much of the large one.
QUICK = {"exec_time_optimization_effort": -1.0}
Batch = dict[str, jax.ShapeDtypeStruct]


class Unavailable(UserError):
    """There is nothing here that compiles for a chip."""


def compiled_step(config: Any, chip: Chip, mesh: Mapping[str, int]) -> jax.stages.Compiled:
    """The training step of a config for a mesh of so many of these chips, {axis: size}; no data are read.

    Raises:
        ConfigError: as `parts_of`; or there is no such slice.
        Unavailable: nothing here compiles for the chip.
        jax.errors.JaxRuntimeError: the compiler's, where the step needs more memory than the chip has.
    """
    return compiled(planned(config, mesh, devices_of(chip, math.prod(mesh.values()))))[0]


def planned(config: Any, mesh: Mapping[str, int], devices: Sequence[Any] | None) -> Parts:
    """The parts of a config on a mesh of `devices`, or of none, which is good for shapes alone.

    Where examples are made from files, others stand in for these: shapes are what the operations make them.

    Raises:
        ConfigError: as `parts_of`.
        DataError: the config's operations do not begin with files, and its own data are not there.
    """
    config, sizes = configs.plain(config), dict.fromkeys(MESH_AXES, 1) | dict(mesh)
    rules = {key: value for key, value in config.get("mesh", {}).items() if key not in MESH_AXES}
    config = {**config, "data": _stood_in(config.get("data")), "mesh": {**rules, **(sizes if devices else {})}}
    parts = parts_of(config, devices=devices or jax.devices()[:1])
    if not devices:
        abstract = AbstractMesh(tuple(sizes.values()), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
        check_batch_size(abstract, parts.data.batch_size, max(parts.optimizer.accumulate, parts.optimizer.cache))
        parts = parts._replace(mesh=abstract)
    return parts


def _stood_in(data: Any) -> Any:
    """`config.data` without its source, where its operations allow that; what is wrong with it is for `parts_of` to say."""
    pp = data.get("pp") if isinstance(data, Mapping) else None
    if not isinstance(pp, Mapping) or not all(stands_in(stream, text) for stream, text in pp.items()):
        return data
    return {**data, "source": {"name": "stand_in", "pp": pp}, "tokenizer": {"name": "byte"}}


def ambient(mesh: Mesh | AbstractMesh) -> AbstractContextManager:
    """`jax.set_mesh`, for a mesh without devices too."""
    return jax.set_mesh(mesh) if isinstance(mesh, Mesh) else jax.sharding.use_abstract_mesh(mesh)


def compiled(parts: Parts) -> tuple[jax.stages.Compiled, State, Batch]:
    """The training step, and the shapes of the state and of a batch, with how they lie on the mesh."""
    step, shapes, batch = lowered(parts)
    return step.compile(), shapes, batch


def lowered(parts: Parts) -> tuple[jax.stages.Lowered, State, Batch]:
    """The same before it is compiled."""
    with ambient(parts.mesh):
        shapes, batch = shapes_of(parts)
        return parts.step(shapes).lower(shapes, batch), shapes, batch


def shapes_of(parts: Parts) -> tuple[State, Batch]:
    """Shapes and shardings of the state and of a batch as the step reads it; on the mesh that is ambient."""
    shapes, rows = parts.state_shapes(), NamedSharding(parts.mesh, PartitionSpec(BATCH_AXES))
    return shapes, {name: x.update(sharding=rows) for name, x in parts.training_shapes(shapes).items()}


def devices_of(chip: Chip, count: int) -> list[Any]:
    """So many devices to compile for.

    Raises:
        ConfigError: there is no such slice.
        Unavailable: nothing here compiles for them.
    """
    if chip.platform == "tpu":
        return _topology(chip, count)
    there = here(chip)
    if len(there) < count:
        raise Unavailable(f"{count} x {chip.name}: GPUs are compiled for on as many of them, and here are {len(there) or 'none'}.")
    return there[:count]


def here(chip: Chip) -> list[Any]:
    """Those of this machine that jax uses."""
    return [device for device in jax.devices() if device.platform == chip.platform and chip.kind in device.device_kind]


def _topology(chip: Chip, count: int) -> list[Any]:
    from jax.experimental import topologies

    shape = chip.slice(count)
    if importlib.util.find_spec("libtpu") is None:
        raise Unavailable(f"{chip.name}: TPUs are compiled for by libtpu, which is not installed: {INSTALL}")
    # libtpu would otherwise ask the network which machine of a pod this is; and it is here only to compile.
    about = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for name, value in about.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_enable_compilation_cache", False)  # it cannot be read without the chips
    more = {} if count >= 4 else {"chips_per_host_bounds": [1, 1, 1]}
    return list(topologies.get_topology_desc(f"{chip.name}:{shape}", "tpu", **more).devices)
