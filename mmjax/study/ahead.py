"""A config's training step, compiled ahead of time for a mesh of chips that need not be there, and what it needs.

TPUs: by the compiler in libtpu, for the topology (`jax.experimental.topologies`). GPUs: on the GPUs themselves. Where neither
is there, for so many simulated devices of the CPU, which is an estimate: its compiler fuses less and computes bfloat16 in float32.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from mmjax import config as configs
from mmjax.config import UserError
from mmjax.contract import BATCH_AXES, MESH_AXES, State
from mmjax.study.chips import Chip
from mmjax.train.build import Parts, parts_of

INSTALL = "pip install -r requirements-tpu.txt"


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


def planned(config: Any, mesh: Mapping[str, int], devices: list[jax.Device]) -> Parts:
    """The parts of a config on a mesh of such devices, with examples that are made up wherever those of the config are files."""
    config = configs.plain(config)
    sizes = {key: value for key, value in config.get("mesh", {}).items() if key not in MESH_AXES}
    data = {**config["data"], "source": {"name": "stand_in", "pp": config["data"]["pp"]}, "tokenizer": {"name": "byte"}}
    return parts_of({**config, "data": data, "mesh": {**sizes, **mesh}}, devices=devices)


def compiled(parts: Parts) -> tuple[jax.stages.Compiled, State, dict[str, jax.ShapeDtypeStruct]]:
    """The training step, and the shapes of the state and of a batch, with how they lie on the mesh."""
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        rows = NamedSharding(parts.mesh, PartitionSpec(BATCH_AXES))
        batch = {name: x.update(sharding=rows) for name, x in parts.training_shapes(shapes).items()}
        return parts.step(shapes).lower(shapes, batch).compile(), shapes, batch


def devices_of(chip: Chip, count: int) -> list[jax.Device]:
    """So many devices to compile for."""
    if chip.platform == "tpu":
        return _topology(chip, count)
    there = [device for device in jax.devices() if device.platform == chip.platform and chip.kind in device.device_kind]
    if len(there) < count:
        raise Unavailable(f"{count} x {chip.name} cannot be compiled for here: {len(there)} of them are there.")
    return there[:count]


def _topology(chip: Chip, count: int) -> list[jax.Device]:
    from jax.experimental import topologies

    shape = chip.slice(count)
    # Set for libtpu, which otherwise asks the network which machine of a pod this is; and it is only to compile.
    about = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost"}
    for name, value in about.items():
        os.environ.setdefault(name, value)
    more = {} if count >= 4 else {"chips_per_host_bounds": [1, 1, 1]}
    return list(topologies.get_topology_desc(f"{chip.name}:{shape}", "tpu", **more).devices)
