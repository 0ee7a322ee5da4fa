"""The mesh, and where each array of the state lies on it.

    c.mesh = dict(data=-1, fsdp=4, tensor=2)

`data` and `fsdp` split a batch's rows, `fsdp` parameters and their optimizer state as well (Rajbhandari et al., 2020, 'ZeRO',
stage 3), `tensor` heads and hidden units (Shoeybi et al., 2020, 'Megatron-LM', sec. 3), `sequence` the tokens of what stands
between a transformer's layers. Which dimension of a parameter an axis splits is said by ordered regex rules, `RULES` unless
`mesh.rules` has others:

    c.mesh.rules = [("model/text/embedding/embedding", dict(tensor=0)), *RULES]
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from mmjax.config import ConfigError, check_call
from mmjax.contract import BATCH_AXES, MESH_AXES, State
from mmjax.train.optim import paths

LARGEST = "largest"
Dimension = int | str | None


class Place(NamedTuple):
    """Which dimension of a parameter an axis splits: a number, negative from the end, or None; or "largest", the largest that it
    divides among those that no other axis splits, unless the array is small.
    """

    data: Dimension = None
    fsdp: Dimension = None
    sequence: Dimension = None
    tensor: Dimension = None


Rules = Sequence[Sequence[Any]]  # [(regex, dict(axis=dimension))]

# For every encoder and fusion: heads and hidden units are split over `tensor`, so that what follows them adds up over it once.
# What neither attends nor is an MLP (convolutions, recurrence) is split over `fsdp` alone.
RULES: Rules = (
    (r".*/(query|key|value)/(kernel|bias)", dict(tensor=-1, fsdp=LARGEST)),
    (r".*attention[^/]*/out/kernel", dict(tensor=0, fsdp=LARGEST)),
    (r".*mlp/in/(kernel|bias)", dict(tensor=-1, fsdp=LARGEST)),
    (r".*mlp/out/kernel", dict(tensor=0, fsdp=LARGEST)),
    (r".*", dict(fsdp=LARGEST)),
)


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    sequence: int = 1,
    tensor: int = 1,
    rules: Rules | None = None,
    fsdp_min_size: int = 65_536,
    *,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh of all devices, or of some `devices`. One of the sizes may be -1: whatever is left.

    `rules` and `fsdp_min_size` are for `state_sharding`; what is wrong with them is said here, before anything is read.
    """
    _parsed(rules)
    sizes, count = dict(zip(MESH_AXES, (data, fsdp, sequence, tensor), strict=True)), len(devices or jax.devices())
    told = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    if list(sizes.values()).count(-1) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ConfigError(f"mesh: {told}: sizes are positive, and one of them may be -1.")
    rest = math.prod(size for size in sizes.values() if size != -1)
    whole = [count // rest if size == -1 else size for size in sizes.values()]
    if math.prod(whole) != count:
        others = rest // max(sizes["data"], 1)
        fit = f"data={count // others}" if count % others == 0 else f"sizes whose product is {count}"
        raise ConfigError(f"mesh: {told} does not multiply out to the {count} devices that there are: take {fit}.")
    types = (AxisType.Auto,) * len(MESH_AXES)
    try:
        return jax.make_mesh(tuple(whole), MESH_AXES, types, devices=devices)
    except NotImplementedError:  # the sides of a TPU's torus do not multiply to these sizes: an axis takes a part of one
        split = mesh_utils.create_device_mesh(tuple(whole), devices, allow_split_physical_axes=True)
        return Mesh(split, MESH_AXES, axis_types=types)


def check_batch_size(mesh: Mesh | AbstractMesh, batch_size: int, accumulate: int = 1) -> None:
    """A batch has to split evenly over the devices (and micro-batches)."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES) * accumulate
    if batch_size % parts or batch_size < parts:
        down, up = batch_size // parts * parts, -(-batch_size // parts) * parts
        into = f"{parts // accumulate} devices" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        raise ConfigError(f"data.batch_size={batch_size} does not split over {into}: take {f'{down} or ' if down else ''}{up}.")


def state_sharding(mesh: Mesh | AbstractMesh, shapes: State, rules: Rules | None = None, fsdp_min_size: int = 65_536) -> State:
    """Where each array of a state lies: parameters by the first rule whose regex matches their whole path, what belongs to a
    parameter (moments, averages) as that does, all else over `fsdp`.

    Arrays of less than `fsdp_min_size` elements are whole where a rule says "largest": gathering them costs more than they weigh.

    Raises:
        ConfigError: a parameter that no rule covers, a rule that covers none, or a dimension that an axis does not divide.
    """
    parsed, used, placed = _parsed(rules), set(), {}
    for path, leaf in paths(shapes.params).items():
        found = next((i for i, (pattern, _) in enumerate(parsed) if pattern.fullmatch(path)), None)
        if found is None:
            raise ConfigError(f"mesh.rules cover no parameter {path!r}: end them with ('.*', dict(fsdp='largest')).")
        used.add(found)
        placed[path] = leaf.shape, _spec(mesh, path, leaf.shape, parsed[found][1], fsdp_min_size)
    if rules is not None and (idle := [i for i in range(len(parsed)) if i not in used and tuple(rules[i]) not in RULES]):
        seen = ", ".join(list(placed)[:3])
        raise ConfigError(f"mesh.rules[{idle[0]}]: {rules[idle[0]][0]!r} covers no parameter that those before it leave, such as {seen}.")

    def place(path: Any, leaf: Any) -> NamedSharding:
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        for i in range(len(names)):  # the optimizer's state of a parameter has its path at the end of its own
            shape, spec = placed.get("/".join(names[i:]), (None, None))
            if shape == leaf.shape and spec is not None:
                return NamedSharding(mesh, spec)
            if spec is not None and shape[:-1] == leaf.shape[:-1] and len(shape) > 1:  # scales of blocks of its rows
                return NamedSharding(mesh, PartitionSpec(*spec[:-1], spec[-1] if leaf.shape[-1] % _parts(mesh, spec[-1]) == 0 else None))
        return NamedSharding(mesh, _spec(mesh, "/".join(names), leaf.shape, Place(fsdp=LARGEST), fsdp_min_size))

    return jax.tree_util.tree_map_with_path(place, shapes)


def _parsed(rules: Rules | None) -> list[tuple[re.Pattern, Place]]:
    parsed = []
    for i, (pattern, what) in enumerate(RULES if rules is None else rules):
        place = Place(**check_call(Place, what, f"mesh.rules[{i}]"))
        for axis, dimension in place._asdict().items():
            if not (dimension is None or dimension == LARGEST or (isinstance(dimension, int) and not isinstance(dimension, bool))):
                raise ConfigError(f"mesh.rules[{i}].{axis}={dimension!r} should be the number of a dimension, {LARGEST!r} or None.")
        try:
            parsed.append((re.compile(pattern), place))
        except re.error as error:
            raise ConfigError(f"mesh.rules[{i}]: {pattern!r} is no regular expression: {error}.") from None
    return parsed


def _spec(mesh: Mesh | AbstractMesh, path: str, shape: tuple[int, ...], place: Place, min_size: int) -> PartitionSpec:
    """What a rule means for one array."""
    axes: list[list[str]] = [[] for _ in shape]
    numbered = {axis: d for axis, d in place._asdict().items() if isinstance(d, int) and mesh.shape[axis] > 1}
    for axis, dimension in numbered.items():
        if not -len(shape) <= dimension < len(shape):
            raise ConfigError(f"mesh.rules: {axis}={dimension} is no dimension of {path!r}, which has {len(shape)}.")
        axes[dimension].append(axis)
    for axis, dimension in numbered.items():
        over = {name: mesh.shape[name] for name in axes[dimension]}
        if (size := shape[dimension]) % (parts := math.prod(over.values())):
            split, down = " x ".join(f"{name}={n}" for name, n in over.items()), size // parts * parts
            raise ConfigError(
                f"mesh: dimension {dimension % len(shape)} of {path!r}, {size} long, does not split over {split}: take "
                f"{f'{down} or ' if down else ''}{down + parts}, another size of {axis} ({_divisors(size)}), or another rule in mesh.rules."
            )
    for axis in (axis for axis, d in place._asdict().items() if d == LARGEST and mesh.shape[axis] > 1):
        free = [d for d, size in enumerate(shape) if not axes[d] and size and size % mesh.shape[axis] == 0]
        if free and math.prod(shape) >= min_size:
            axes[max(free, key=lambda d: shape[d])].append(axis)
    return PartitionSpec(*(tuple(names) if len(names) > 1 else names[0] if names else None for names in axes))


def _parts(mesh: Mesh | AbstractMesh, axes: str | tuple[str, ...] | None) -> int:
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


def _divisors(size: int) -> str:
    found = [n for n in range(1, size + 1) if size % n == 0]
    return ", ".join(map(str, found[:6])) + (", ..." if len(found) > 6 else "")
