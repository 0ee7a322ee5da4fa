"""Whether a config's training fits a mesh of chips, and what would make it fit: all of it compiled, where there is a compiler for them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from mmjax.config import ConfigError, changed, nearest, plain
from mmjax.contract import BATCH_AXES, MESH_AXES
from mmjax.study import memory
from mmjax.study.ahead import QUICK, Unavailable, devices_of, here, planned
from mmjax.study.memory import Needs
from mmjax.train.chips import GIB, Chip

CLOSE = 0.05  # of the memory: what is nearer to it is compiled as training compiles it
COMPILED, ESTIMATED = "compiled", "estimated"
Mesh = Mapping[str, int]
Changes = Mapping[str, Any]  # {dotted path: value}


class Try(NamedTuple):
    """A change of the config, and what is then needed."""

    changes: dict[str, Any]
    mesh: dict[str, int]
    needs: Needs
    fits: bool


class Fit:
    """A config on a mesh of chips, and changes of it. `say` hears of every compilation, before and after.

    Args:
        full: compile everything as training does, and not only what is close to the limit.

    Raises:
        ConfigError: as `planned`; there is no such slice of the chip.
    """

    def __init__(self, config: Any, chip: Chip, mesh: Mesh, *, full: bool = False, say: Callable[[str], None] = print):
        self.config, self.chip, self.mesh, self.full, self.say = plain(config), chip, dict(mesh), full, say
        self.count, self.split = math.prod(mesh.values()), math.prod(mesh.get(axis, 1) for axis in BATCH_AXES)
        self.limit, self.asked, self.compilations = memory.limit(chip), {}, 0
        try:
            self.devices, self.how, self.why = devices_of(chip, self.count), COMPILED, ""
        except Unavailable as error:
            self.devices, self.how, self.why = None, ESTIMATED, str(error)
        self.parts = planned(self.config, mesh, None)  # what is wrong with the config is said before anything is compiled

    def ask(self, changes: Changes | None = None, mesh: Mesh | None = None) -> Try:
        """What the config needs with some changes, on the mesh or another one of the same chips."""
        changes, mesh = dict(changes or {}), dict(mesh or self.mesh)
        key = repr((sorted(changes.items()), mesh))
        if key not in self.asked:
            self.asked[key] = self._answer(changes, mesh)
        return self.asked[key]

    def _answer(self, changes: dict[str, Any], mesh: dict[str, int]) -> Try:
        config = changed(self.config, changes)
        if self.devices is None:
            needs = memory.estimated(config, mesh)
        else:
            parts, quick = planned(config, mesh, self.devices), self.chip.platform == "tpu" and not self.full
            needs = self._compiled(parts, changes, mesh, quick)
            if quick and abs(needs.peak / self.limit - 1) < CLOSE:
                needs = self._compiled(parts, changes, mesh, False)
        return Try(changes, mesh, needs, needs.peak <= self.limit)

    def _compiled(self, parts: Any, changes: Changes, mesh: Mesh, quick: bool) -> Needs:
        self.compilations += 1
        begin, what = time.perf_counter(), ", ".join(flags(changes, mesh if mesh != self.mesh else {})) or "as it is"
        self.say(f"Compilation {self.compilations}{'' if quick or self.chip.platform != 'tpu' else ', as in training'}: {what} ...")
        needs = memory.of_program(parts, QUICK if quick else None)
        self.say(f"  {needs.peak / GIB:.2f} GiB of {self.limit / GIB:.2f}, in {time.perf_counter() - begin:.0f} s")
        return needs

    def rows(self, changes: Changes, mesh: Mesh) -> int:
        """What a batch has to be a multiple of."""
        micro = max(changed(self.config, changes)["optimizer"].get(key, 1) for key in ("accumulate", "cache"))
        return micro * math.prod(mesh.get(axis, 1) for axis in BATCH_AXES)


def mesh_of(text: str | None, config: Any, chip: Chip) -> dict[str, int]:
    """ "data=8,fsdp=32" as sizes; or those of the config, where -1 is the rest of the chips that are here or, if none is, of one host.

    Raises:
        ConfigError: no such axis, no such size.
    """
    if text is None:
        sizes = {key: value for key, value in plain(config).get("mesh", {}).items() if key in MESH_AXES}
        sizes = {"data": -1, **sizes}
        rest = math.prod(size for size in sizes.values() if size != -1)
        count = len(here(chip)) or chip.host
        return {axis: max(count // rest, 1) if size == -1 else size for axis, size in sizes.items()}
    sizes = {}
    for part in text.split(","):
        axis, _, size = (word.strip() for word in part.partition("="))
        if axis not in MESH_AXES:
            raise ConfigError(f"--mesh: {axis!r} is no axis.{nearest(axis, MESH_AXES)}")
        if not size.isdecimal() or int(size) < 1:
            raise ConfigError(f"--mesh: {part.strip()!r} should say how many, as in {axis}=8.")
        sizes[axis] = int(size)
    return sizes


def flags(changes: Changes, mesh: Mesh) -> list[str]:
    """As the scripts take them."""
    return [f"--config.{path}={value}" for path, value in {**{f"mesh.{axis}": size for axis, size in mesh.items()}, **changes}.items()]


class Step(NamedTuple):
    """A change that a lever can make, and the bytes that it saves on each chip at the most."""

    changes: dict[str, Any]
    mesh: dict[str, int]
    saves: int


Lever = Callable[[Fit, Try], Iterator[Step]]  # from something that does not fit, the gentlest step first


def sharded(fit: Fit, base: Try) -> Iterator[Step]:
    """Parameters and what belongs to them over more chips: `fsdp` in the place of `data`."""
    data, by = base.mesh.get("data", 1), 2
    while data % by == 0:
        saves = 2 * (base.needs.state - base.needs.state // by)  # twice: gradients, and copies in other types
        yield Step(base.changes, {**base.mesh, "data": data // by, "fsdp": base.mesh.get("fsdp", 1) * by}, saves)
        by *= 2


def rematerialised(fit: Fit, base: Try) -> Iterator[Step]:
    """Blocks are computed again in the backward pass."""
    paths = memory.rematerialisable(changed(fit.config, base.changes))
    for policy in ("dots", "full") if paths else ():
        yield Step({**base.changes, **{f"{path}.remat": policy for path in paths}}, base.mesh, base.needs.activations)


def cut(fit: Fit, base: Try) -> Iterator[Step]:
    """Micro-batches: accumulated, or through GradCache where losses compare the rows of a batch."""
    batch_wise = any(objective.batch_wise for objective, _ in fit.parts.objectives.values())
    key, other = ("cache", "accumulate") if batch_wise else ("accumulate", "cache")
    config = changed(fit.config, base.changes)
    parts, by = config["optimizer"].get(key, 1), 2
    while config["optimizer"].get(other, 1) == 1 and config["data"]["batch_size"] % (fit.rows(base.changes, base.mesh) * by) == 0:
        yield Step({**base.changes, f"optimizer.{key}": parts * by}, base.mesh, base.needs.activations - base.needs.activations // by)
        by *= 2


LEVERS: tuple[Lever, ...] = (sharded, rematerialised, cut)


def suggestions(fit: Fit) -> list[Try]:
    """What makes it fit: by one lever alone, or else by two, or else by all."""
    for count in range(1, len(LEVERS) + 1):
        found = [tried for levers in combinations(LEVERS, count) if (tried := _together(fit, levers))]
        if found:
            return found
    return []


def _together(fit: Fit, levers: Sequence[Lever]) -> Try | None:
    """The last of several levers as gently as suffices, those before it as far as they go."""
    base = fit.ask()
    for lever in levers[:-1]:
        steps = list(lever(fit, base))
        if not steps:
            return None
        base = fit.ask(steps[-1].changes, steps[-1].mesh)
    hopeful = (step for step in levers[-1](fit, base) if base.needs.peak - step.saves <= fit.limit)
    return next((tried for step in hopeful if (tried := fit.ask(step.changes, step.mesh)).fits), None)


def largest_batch(fit: Fit) -> tuple[Try | None, int]:
    """The largest batch of the config that fits, within a sixteenth of it, and the smallest that was seen not to.

    Powers of two first, times what the mesh divides by, then halves of what lies between.
    """
    rows = fit.rows({}, fit.mesh)
    ask = lambda times: fit.ask({"data.batch_size": rows * times})  # noqa: E731
    base = fit.ask()
    fixed = base.needs.peak - base.needs.activations - base.needs.batches
    share = (fit.limit - fixed) / max(base.needs.peak - fixed, 1) * fit.config["data"]["batch_size"] / rows  # of those that it could be
    low = 1 << max(int(max(share, 1)).bit_length() - 1, 0)
    while not (best := ask(low)).fits:
        if low == 1:
            return None, rows
        low //= 2
    high = 2 * low
    while (more := ask(high)).fits:
        best, low, high = more, high, 2 * high
    while high - low > max(low // 16, 1):
        middle = (low + high) // 2
        tried = ask(middle)
        best, low, high = (tried, middle, high) if tried.fits else (best, low, middle)
    return best, high * rows
