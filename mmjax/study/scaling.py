"""How long a training step takes on many chips: a model over programs that are compiled for them, without the chips.

What a program computes and sends, and in which order, is read out of it (`collectives`); what a chip and its links can do is
published (`chips`); `Speeds` is what is assumed. `play` lets the schedule run off: an instruction takes what it takes to
compute or to fetch, whichever is longer; a collective takes its links for what it sends, and whatever waits for it waits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.config import build
from mmjax.contract import BATCH_AXES, Context
from mmjax.study import ahead
from mmjax.study.collectives import Compute, Done, Event, Loop, Start, computed
from mmjax.study.memory import exhausted
from mmjax.train.build import Parts
from mmjax.train.chips import Chip
from mmjax.train.optim import paths
from mmjax.train.sharding import make_mesh


class Speeds(NamedTuple):
    """What is assumed of every chip."""

    arithmetic: float = 0.5  # share of the published arithmetic speed that a product of matrices attains
    memory: float = 0.5  # of the published bandwidth of the memory, an instruction
    links: float = 0.8  # of the published bandwidth of the links, a collective
    hop: float = 1e-6  # seconds from a chip to the next
    least: float = 1.2e-6  # seconds of the smallest instruction


class Torus(NamedTuple):
    """How a mesh lies on a slice of chips."""

    slice: tuple[int, ...]  # chips in each dimension
    sides: Mapping[str, tuple[int, ...]]  # of each axis, how many places it takes in each dimension

    def along(self, axes: Iterable[str]) -> tuple[int, ...]:
        """The sides of several axes together."""
        return tuple(int(x) for x in np.prod([self.sides[axis] for axis in axes] or [[1]], axis=0))


class Played(NamedTuple):
    """A step that has run off in the model, in seconds."""

    seconds: float
    computing: float
    moved: dict[tuple[str, tuple[str, ...]], tuple[float, float, float]]  # by kind and axes: bytes sent, seconds, seconds waited for


def torus_of(coordinates: np.ndarray, axes: Sequence[str]) -> Torus:
    """How a mesh lies whose devices, [*mesh, dimensions], have these coordinates."""
    sides = {}
    for place, axis in enumerate(axes):
        line = np.moveaxis(coordinates, place, 0).reshape(coordinates.shape[place], -1, coordinates.shape[-1])[:, 0]
        sides[axis] = tuple(len(set(x)) for x in line.T.tolist())
    return Torus(tuple(int(x) + 1 for x in coordinates.reshape(-1, coordinates.shape[-1]).max(0)), sides)


def is_ring(chip: Chip, torus: Torus, side: int, dimension: int) -> bool:
    """Whether the ends of a side are neighbours. v5p: in slices of whole cubes of 4 x 4 x 4; v5e and v6e: along 16 chips."""
    whole = all(x % 4 == 0 for x in torus.slice) if chip.name == "v5p" else side == 16
    return side == torus.slice[dimension] and side > 2 and whole


def seconds_of(event: Compute | Start, chip: Chip, torus: Torus, speeds: Speeds) -> float:
    """What one instruction or one collective takes by itself.

    All-gather, reduce-scatter and all-reduce use both directions of all links along their axes (Thakur et al., 2005, sec. 4, in
    every dimension at once); what is passed on takes one link; in an all-to-all everything travels half of the way to the far end.
    """
    if isinstance(event, Compute):
        computing = event.flops / (chip.flops * speeds.arithmetic)
        return max(computing, event.bytes / (chip.memory_bandwidth * speeds.memory), speeds.least)
    sides = [(side, is_ring(chip, torus, side, d)) for d, side in enumerate(torus.along(event.axes)) if side > 1]
    if not sides:
        return 0.0
    link, links = chip.link_bandwidth * speeds.links, sum(2 if ring else 1 for _, ring in sides)
    if event.kind == "collective-permute":
        return event.sent / link + speeds.hop
    if event.kind == "all-to-all":
        way = sum(side / (4 if ring else 3) for side, ring in sides)
        return event.sent * way / (links * link) + way * speeds.hop
    hops = sum(side // 2 if ring else side - 1 for side, ring in sides)
    return event.sent / (links * link) + hops * speeds.hop * (2 if event.kind == "all-reduce" else 1)


def play(events: Iterable[Event], chip: Chip, torus: Torus, speeds: Speeds = Speeds()) -> Played:  # noqa: B008
    """Lets a schedule run off. Collectives that share an axis wait for each other."""
    now = computing = 0.0
    free: dict[str, float] = {}
    ends: dict[str, tuple[float, tuple[str, tuple[str, ...]]]] = {}
    moved: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}
    for event in events:
        match event:
            case Compute():
                seconds = seconds_of(event, chip, torus, speeds)
                now, computing = now + seconds, computing + seconds
            case Start():
                seconds, key = seconds_of(event, chip, torus, speeds), (event.kind, event.axes)
                end = max([now, *(free.get(axis, 0.0) for axis in event.axes)]) + seconds
                free |= dict.fromkeys(event.axes, end)
                ends[event.name] = end, key
                moved[key] = moved.get(key, np.zeros(3)) + np.array([event.sent, seconds, 0.0])
            case Done(name) if name in ends:
                end, key = ends.pop(name)
                moved[key][2] += max(end - now, 0.0)
                now = max(end, now)
            case Loop(trips, body):
                inner = play(body, chip, torus, speeds)
                now, computing = now + trips * inner.seconds, computing + trips * inner.computing
                for key, row in inner.moved.items():
                    moved[key] = moved.get(key, np.zeros(3)) + trips * np.array(row)
    return Played(max([now, *(end for end, _ in ends.values())]), computing, {key: tuple(row.tolist()) for key, row in moved.items()})


def compiled(config: Any, chip: Chip, mesh: Mapping[str, int], options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What is to know of a config's training step on such a mesh, for `Program`: its `text` is HLO; no data are read.

    `options` are the compiler's. Where the step does not fit the chip's memory, there is what it `needs`, and no text.

    Raises:
        ConfigError: as `ahead.planned`.
        Unavailable: nothing here compiles for the chip.
    """
    parts = ahead.planned(config, mesh, ahead.devices_of(chip, math.prod(mesh.values())))
    about = {"batch": parts.data.batch_size, "by_hand": by_hand(parts)}
    return about | _read(ahead.lowered(parts)[0], chip, parts.mesh, options)


def compiled_loss(
    config: Mapping[str, Any], width: int, batch: int, chip: Chip, mesh: Mapping[str, int], options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """As `compiled`, of a contrastive objective alone: its value, metrics and gradients for images and texts of `width`."""
    objective = build("objectives", config, "objectives.contrastive")
    sizes: Any = mesh
    devices = make_mesh(**sizes, devices=ahead.devices_of(chip, math.prod(mesh.values())))
    rows, whole = (NamedSharding(devices, PartitionSpec(*axes)) for axes in ((BATCH_AXES,), ()))

    def step(params, z, given):
        def total(params, z):
            loss = objective(Context(params, (), jnp.int32(0), jax.random.key(0), lambda: {}), z, given)
            return sum(loss.terms.values()), loss.metrics

        return jax.value_and_grad(total, (0, 1), has_aux=True)(params, z)

    def shape(dtype: Any, *sizes: int) -> Any:
        return jax.ShapeDtypeStruct((batch, *sizes), dtype, sharding=rows)

    streams = ("image", "text")
    z = {f"{m}/z": shape(jnp.float32, width) for m in streams}
    given = {m: shape(jnp.float32) for m in streams}
    given |= {f"{m}/{name}": shape(dtype) for m in streams for name, dtype in (("present", jnp.bool_), ("key", jnp.int32))}
    params = jax.eval_shape(lambda: objective.init(jax.random.key(0), {}, {name: jnp.zeros((1, 1)) for name in z})[0])
    params = jax.tree.map(lambda x: x.update(sharding=whole), params)
    placed = ((None, None), jax.tree.map(lambda x: x.sharding, (params, z)))

    with jax.set_mesh(devices):
        lowered = jax.jit(step, out_shardings=placed).lower(params, z, given)
    return {"batch": batch} | _read(lowered, chip, devices, options)


def _read(lowered: jax.stages.Lowered, chip: Chip, mesh: Mesh, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is to know of a program."""
    coordinates = np.array([device.coords for device in mesh.devices.flat]).reshape(*mesh.devices.shape, -1)
    found = {"chip": chip.name, "mesh": dict(mesh.shape), "torus": torus_of(coordinates, mesh.axis_names)}
    try:
        step: Any = lowered.compile(compiler_options=dict(options or {}))
    except jax.errors.JaxRuntimeError as error:
        needed = exhausted(str(error))
        if needed is None:
            raise
        return found | {"needs": needed}
    memory, counted = step.memory_analysis(), step.cost_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return found | {
        "arguments": memory.argument_size_in_bytes,
        "needs": kept + memory.temp_size_in_bytes,
        "xla_flops": counted["flops"],
        "text": step.as_text(),
    }


def by_hand(parts: Parts) -> dict[str, float]:
    """Of a model of transformers: its `parameters`, and the operations of a row by arithmetic: `forward`, and `again` in the backward
    pass where blocks are rematerialised, which needs all but what a block's last product gives.

    Two for every element of a block's matrices and every token, and 4 * T * D a block and token for attention (Kaplan et al., 2020,
    'Scaling Laws for Neural Language Models', table 1). Embeddings, pooling and projections are left out.
    """
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        variables = {"params": shapes.params["model"], **shapes.stats}
        batch = jax.eval_shape(parts.data.batch_pp, parts.training_shapes(shapes), shapes.fitted)
        outputs, _ = jax.eval_shape(partial(parts.model.apply, train=False), variables, batch)
    forward = last = 0.0
    for stream, tokens in ((name.removesuffix("/tokens"), x.shape) for name, x in outputs.items() if name.endswith("/tokens")):
        kernels = {path: x for path, x in paths(shapes.params["model"]).items() if re.match(rf"{stream}/.*block_\d+/.*kernel", path)}
        depth = len({re.findall(r"block_\d+", path)[0] for path in kernels})
        forward += tokens[1] * (2.0 * sum(x.size for x in kernels.values()) + 4.0 * depth * tokens[1] * tokens[2])
        last += tokens[1] * 2.0 * sum(x.size for path, x in kernels.items() if path.endswith("mlp/out/kernel"))
    return {"parameters": sum(x.size for x in jax.tree.leaves(shapes.params)), "forward": forward, "again": forward - last}


class Program:
    """A training step or a loss that was compiled, as `compiled` describes it."""

    def __init__(self, found: Mapping[str, Any], chip: Chip, events: Sequence[Event]):
        self.chip, self.mesh, self.batch, self.events = chip, found["mesh"], int(found["batch"]), events
        self.torus = Torus(tuple(found["torus"][0]), found["torus"][1])
        self.fits = "arguments" in found
        self.needs = float(found["needs"])  # bytes of a chip's memory
        self.arguments = float(found.get("arguments", math.nan))  # of these, the state and the batch
        self.by_hand: Mapping[str, float] = found.get("by_hand", {})
        self.xla_flops = float(found.get("xla_flops", math.nan))

    @property
    def chips(self) -> int:
        """Chips in all."""
        return math.prod(self.mesh.values())

    @property
    def rows(self) -> float:
        """Rows of the batch a chip."""
        return self.batch / self.chips

    def total(self) -> Compute:
        """All that a chip computes in a step."""
        return computed(self.events)

    def step(self, speeds: Speeds = Speeds()) -> Played:  # noqa: B008
        """A step in the model."""
        return play(self.events, self.chip, self.torus, speeds)
