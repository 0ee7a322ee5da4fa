"""The mesh, and where each array of the state lies on it."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmjax.config import ConfigError
from mmjax.contract import BATCH_AXES, MESH_AXES


def make_mesh(data: int = -1, fsdp: int = 1, fsdp_min_size: int = 65_536) -> Mesh:
    """A mesh of all devices: batches are split over `data` x `fsdp`, parameters over `fsdp` alone.

    One of the two may be -1: whatever is left. `fsdp_min_size` is for `state_sharding`.
    """
    sizes, devices = [data, fsdp], jax.device_count()
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ConfigError(f"mesh: data={data}, fsdp={fsdp}: sizes are positive, and one of them may be -1.")
    rest = math.prod(size for size in sizes if size != -1)
    sizes = [devices // rest if size == -1 else size for size in sizes]
    if math.prod(sizes) != devices:
        raise ConfigError(f"mesh: data={data} x fsdp={fsdp} does not multiply out to the {devices} devices that there are.")
    return jax.make_mesh(tuple(sizes), MESH_AXES, (AxisType.Auto,) * len(MESH_AXES))


def check_batch_size(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """A batch has to split evenly over the devices (and micro-batches)."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES) * accumulate
    if batch_size % parts or batch_size < parts:
        down, up = batch_size // parts * parts, -(-batch_size // parts) * parts
        into = f"{parts // accumulate} devices" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        raise ConfigError(f"data.batch_size={batch_size} does not split over {into}: take {f'{down} or ' if down else ''}{up}.")


def state_sharding(mesh: Mesh, shapes: Any, fsdp_min_size: int) -> Any:
    """Fully sharded data parallelism (Rajbhandari et al., 2020, ZeRO stage 3): the largest axis that `fsdp` divides is split.

    Arrays below `fsdp_min_size` elements stay whole on every device: gathering them costs more than they weigh.
    """
    fsdp = mesh.shape["fsdp"]

    def place(leaf):
        axes: list[str | None] = [None] * len(leaf.shape)
        candidates = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0 and size > 0]
        if fsdp > 1 and candidates and math.prod(leaf.shape) >= fsdp_min_size:
            axes[max(candidates, key=lambda axis: leaf.shape[axis])] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(place, shapes)
