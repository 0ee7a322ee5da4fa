"""What a compiled program computes and what its chips send each other, in the order of its schedule, read from the text of its HLO.

The text of an executable (`jax.stages.Compiled.as_text()`) is the program of one device after partitioning, so that shapes are one
device's share, and instructions stand in the order in which they are issued. What a device sends is counted as for the ring
algorithms (Thakur et al., 2005, 'Optimization of Collective Communication Operations in MPICH', sec. 4), which is the least that any needs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
# What moves no data, or only says where they are.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id", "opt-barrier",
    "copy-done", "slice-done", "async-update", "iota", "domain", "add-dependency",
}  # fmt: skip


class Compute(NamedTuple):
    """An instruction that computes, or copies in memory."""

    flops: float  # of products of matrices and convolutions; additions and multiplications count one each
    bytes: float  # read from memory and written to it
    cycles: float = 0.0  # that the compiler expects it to take, where it says so: TPU's does


class Start(NamedTuple):
    """A collective begins."""

    name: str  # by which `Done` knows it
    kind: str  # one of KINDS
    axes: tuple[str, ...]  # along which the devices of a group differ
    group: int  # devices that take part together
    size: int  # bytes of the whole array on one device: the gathered, the one before it is scattered, what one device passes on

    @property
    def sent(self) -> float:
        """Bytes that each device sends."""
        if self.kind == "collective-permute":
            return float(self.size)
        return (2 if self.kind == "all-reduce" else 1) * self.size * (self.group - 1) / self.group


class Done(NamedTuple):
    """What follows waits for the collective of this name."""

    name: str


class Loop(NamedTuple):
    """A body that runs `trips` times."""

    trips: int
    body: list[Event]


Event = Compute | Start | Done | Loop


class Moved(NamedTuple):
    """A collective and what it comes to in a step."""

    start: Start
    times: int
    asynchronous: bool  # whether something is computed between its start and its end


def moved(events: Iterable[Event], times: int = 1) -> list[Moved]:
    """All collectives of a schedule, a loop's with the number of its trips."""
    found, under_way, busy = [], {}, set()
    for event in events:
        match event:
            case Loop(trips, body):
                found += moved(body, times * trips)
                busy |= set(under_way)
            case Compute():
                busy |= set(under_way)
            case Start():
                under_way[event.name] = event
            case Done(name) if name in under_way:
                found.append(Moved(under_way.pop(name), times, name in busy))
                busy.discard(name)
    return found


def computed(events: Iterable[Event]) -> Compute:
    """All that a schedule computes."""
    total = np.zeros(3)
    for event in events:
        if isinstance(event, Loop):
            total += event.trips * np.array(computed(event.body))
        elif isinstance(event, Compute):
            total += event
    return Compute(*total.tolist())


def schedule(text: str, mesh: Mapping[str, int]) -> list[Event]:
    """The schedule of one device.

    Args:
        text: HLO of an executable.
        mesh: the mesh's axes and their sizes, in its order.

    Raises:
        ValueError: the text has something in it whose meaning is not known here: a group of devices in an unknown form, or a loop
            whose number of trips it does not tell.
    """
    program = _Program(text, mesh)
    return list(program.events(program.entry))


class _Instruction(NamedTuple):
    name: str
    shape: str
    op: str
    operands: list[str]
    rest: str  # behind the operands
    root: bool  # whether its computation gives what it gives

    def attribute(self, name: str) -> str:
        """The word after `name=`; "" where it is not said."""
        found = re.search(rf"\b{name}=[%\"]?([\w.\-]+)", self.rest)
        return found[1] if found else ""


class _Program:
    def __init__(self, text: str, mesh: Mapping[str, int]):
        self.mesh = dict(mesh)
        self.under_way: set[str] = set()
        self.computations: dict[str, dict[str, _Instruction]] = {}
        self.entry, into = "", None
        for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
            if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
                into = self.computations.setdefault(head[2], {})
                self.entry = head[2] if head[1] else self.entry
            elif into is not None and (found := _instruction(line)):
                into[found.name] = found

    def events(self, computation: str) -> Iterator[Event]:
        scope = self.computations[computation]
        for i in scope.values():
            if i.op == "while":
                yield Loop(self.trips(i), list(self.events(i.attribute("body"))))
            elif i.op == "call":
                yield from self.events(i.attribute("to_apply"))
            elif i.op == "conditional":
                yield from max((list(self.events(branch)) for branch in _branches(i)), key=len)
            elif i.op in KINDS or i.op.removesuffix("-start") in KINDS:
                yield self.start(i, scope, i.name)
                if i.op in KINDS:
                    yield Done(i.name)
            elif i.op.removesuffix("-done") in KINDS or i.op == "async-done":
                yield Done(_origin(i, scope, "-done", "-update").name)
            elif inner := [c for c in self.called(i).values() if c.op in KINDS]:
                yield from self._within(i, scope, inner[0])
            elif i.op not in _FREE and not i.op.endswith("-start"):
                yield self.compute(i, scope)

    def _within(self, i: _Instruction, scope: Mapping[str, _Instruction], inner: _Instruction) -> Iterator[Event]:
        """A collective in another computation: one that runs beside others, or in TPU's forms, which are fusions.

        There one may begin in a fusion, go on in others that compute, and end in a last one, all of which name its channel;
        and a reduce-scatter is an all-reduce of which a slice is taken.
        """
        body, channel = self.called(i), inner.attribute("channel_id")
        targets = [c.attribute("custom_call_target") for c in body.values()]
        kind = "reduce-scatter" if inner.op == "all-reduce" and any(c.op == "dynamic-slice" for c in body.values()) else inner.op
        if i.op == "async-start":
            yield self.start(inner, body, i.name, kind)
        elif "AsyncCollectiveStart" in targets:
            self.under_way.add(channel)
            yield self.start(inner, body, channel, kind)
        elif "AsyncCollectiveDone" in targets:
            self.under_way.remove(channel)
            yield Done(channel)
        elif channel in self.under_way:
            yield self.compute(i, scope)
        else:
            yield self.start(inner, body, i.name, kind)
            yield Done(i.name)

    def called(self, i: _Instruction) -> dict[str, _Instruction]:
        return self.computations.get(i.attribute("calls"), {})

    def trips(self, loop: _Instruction) -> int:
        """As the compiler knows them; or by what the counter begins with, what is added to it, and what it stays below."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        around = next(scope for scope in self.computations.values() if scope.get(loop.name) is loop)
        condition, body = (self.computations[loop.attribute(name)] for name in ("condition", "body"))
        test, last = _root(condition), _root(body)
        limit = self.constant(test.operands[1], condition) if "direction=LT" in test.rest else None
        place = int(condition[test.operands[0]].attribute("index") or 0)
        counter = _origin(body[last.operands[place]], body, "copy", "bitcast")
        steps = [self.constant(o, body) for o in counter.operands] if counter.op == "add" else []
        step = next((step for step in steps if step), None)
        begin = self.constant(_origin(around[loop.operands[0]], around, "copy").operands[place], around)
        if limit is None or step is None or begin is None:
            raise ValueError(f"The number of trips of the loop {loop.name} cannot be read off it.")
        return max(-(-(limit - begin) // step), 0)

    def constant(self, name: str, scope: Mapping[str, _Instruction]) -> int | None:
        """The whole number that something is in all cases, if it is one."""
        found = _origin(scope[name], scope, "copy", "bitcast")
        return int(found.rest) if found.op == "constant" and re.fullmatch(r"-?\d+", found.rest) else None

    def start(self, i: _Instruction, scope: Mapping[str, _Instruction], name: str, kind: str = "") -> Start:
        kind = kind or i.op.removesuffix("-start")
        groups = self.groups(i)
        coordinates = np.stack(np.unravel_index(groups, tuple(self.mesh.values())), -1)  # [G, S, A]
        differ = (coordinates != coordinates[:, :1]).any((0, 1))
        axes = tuple(axis for axis, along in zip(self.mesh, differ, strict=True) if along)
        size = sum(_size(scope[o].shape) for o in i.operands)
        group = math.prod(self.mesh[axis] for axis in axes) if kind == "collective-permute" else groups.shape[1]
        return Start(name, kind, axes, group, size * group if kind == "all-gather" else size)

    def groups(self, i: _Instruction) -> np.ndarray:
        """The groups [G, S] in which devices take part; of a permutation its pairs."""
        if pairs := re.search(r"source_target_pairs=\{(.*?)\}(?:,|$)", i.rest.replace("},{", ";")):
            return _listed(pairs[1])
        if dense := re.search(r"replica_groups=\{(\{.*?\})?\}", i.rest.replace("},{", ";")):
            return _listed(dense[1]) if dense[1] else np.arange(math.prod(self.mesh.values()))[None]
        if iota := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", i.rest):
            return _iota(iota[2]).reshape(_numbers(iota[1]))
        if mesh := re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?\)?)\))? \{(.*?)\}", i.rest):
            sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
            along = re.findall(r"'(\w+)'", mesh[3])
            if ":" not in mesh[3] and along:  # a part of an axis would be 'x':(2)4
                ids = (_iota(mesh[2]) if mesh[2] else np.arange(math.prod(sizes.values()))).reshape(tuple(sizes.values()))
                ids = np.moveaxis(ids, [list(sizes).index(axis) for axis in along], range(-len(along), 0))
                return ids.reshape(-1, math.prod(sizes[axis] for axis in along))
        raise ValueError(f"The groups of {i.name} are in a form that is not known: {i.rest[:200]}")

    def compute(self, i: _Instruction, scope: Mapping[str, _Instruction]) -> Compute:
        cycles = re.search(r'"estimated_cycles":"(\d+)"', i.rest)
        return Compute(self.flops(i, scope), self.bytes(i, scope), float(cycles[1]) if cycles else 0.0)

    def flops(self, i: _Instruction, scope: Mapping[str, _Instruction]) -> float:
        """Of its products of matrices, in whatever it calls."""
        inner = self.called(i)
        if inner:
            return sum(self.flops(c, inner) for c in inner.values())
        if i.op == "dot":
            left = _dimensions(scope[i.operands[0]].shape)
            contracted = _numbers(re.findall(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest)[0])
            return 2.0 * math.prod(_dimensions(i.shape)) * math.prod(left[d] for d in contracted)
        if i.op == "convolution":
            return _convolution(i, *(_dimensions(scope[o].shape) for o in i.operands))
        return 0.0

    def bytes(self, i: _Instruction, scope: Mapping[str, _Instruction]) -> float:
        """What it reads and writes: of an array of which a slice is taken, or into which one is put, the slice."""
        return sum(self.read(i, place, scope) for place in range(len(i.operands))) + self.written(i, scope)

    def read(self, i: _Instruction, place: int, scope: Mapping[str, _Instruction]) -> float:
        """What an instruction reads of one of its operands."""
        whole = float(_size(scope[i.operands[place]].shape))
        if i.op in ("dynamic-slice", "gather") and place == 0:
            return float(_size(i.shape))
        if i.op == "dynamic-update-slice" and place == 0:
            return 0.0
        if i.op == "bitcast":
            inner, name = scope, i.name
        elif inner := self.called(i):
            name = next(c.name for c in inner.values() if c.op == "parameter" and c.rest == str(place))
        else:
            return whole
        users = [(u, k) for u in inner.values() for k, operand in enumerate(u.operands) if operand == name]
        return min(whole, sum(self.read(u, k, inner) for u, k in users))

    def written(self, i: _Instruction, scope: Mapping[str, _Instruction]) -> float:
        if i.op == "dynamic-update-slice":
            return float(_size(scope[i.operands[1]].shape))
        if i.op in ("bitcast", "tuple"):
            return sum(self.written(scope[o], scope) for o in i.operands)
        inner = self.called(i)
        return self.written(_root(inner), inner) if inner else float(_size(i.shape))


def _instruction(line: str) -> _Instruction | None:
    found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        return None
    rest = line[found.end() :]
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    op, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 1
    inside, rest = rest[: end - 1], rest[end:].lstrip(", ")
    if op in ("parameter", "constant"):  # its number, its value
        return _Instruction(found[2], shape, op, [], inside, bool(found[1]))
    return _Instruction(found[2], shape, op, re.findall(r"%([\w.\-]+)", inside), rest, bool(found[1]))


def _closing(text: str) -> int:
    """Where the bracket that `text` begins with is closed, and one further."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place + 1
    return len(text)


def _origin(i: _Instruction, scope: Mapping[str, _Instruction], *through: str) -> _Instruction:
    """Where the first operand of such operations comes from."""
    while i.operands and i.op.endswith(through):
        i = scope[i.operands[0]]
    return i


def _root(scope: Mapping[str, _Instruction]) -> _Instruction:
    """What a computation gives."""
    return next(i for i in scope.values() if i.root)


def _branches(i: _Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{(.*?)\}", i.rest)
    return re.findall(r"[\w.\-]+", listed[1]) if listed else [i.attribute("true_computation"), i.attribute("false_computation")]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(x) for x in re.findall(r"\d+", text))


def _listed(text: str) -> np.ndarray:
    return np.array([_numbers(group) for group in text.split(";")])


def _iota(text: str) -> np.ndarray:
    """`[2,4]T(1,0)`: 0, 1, 2, ... in that shape, and its axes in that order."""
    sizes, _, order = text.partition("T")
    ids = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return (ids.transpose(_numbers(order)) if order else ids).reshape(-1)


_BITS = {"pred": 8, "token": 0, "opaque": 0}


def _dimensions(shape: str) -> tuple[int, ...]:
    return _numbers(shape[shape.index("[") : shape.index("]")])


def _size(shape: str) -> int:
    """Bytes of an array, or of the arrays in a tuple."""
    total = 0
    for kind, sizes in re.findall(r"([a-z]+\w*)\[([\d,]*)\]", shape):
        bits = _BITS[kind] if kind in _BITS else int(re.findall(r"\d+", kind)[0])
        total += bits * math.prod(_numbers(sizes)) // 8
    return total


def _convolution(i: _Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Two for every product that is not with padding; TPU writes products of matrices, batched ones too, as convolutions."""
    inputs, kernels, outputs = re.split(r"_|->", re.findall(r"dim_labels=([\w\->]+)", i.rest)[0])
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", (re.findall(r"window=\{(.*?)\}", i.rest) or [""])[0]))
    total, spatial = 2.0 * right[kernels.index("i")], sum(x.isdigit() for x in outputs)
    for place, label in enumerate(outputs):
        size = _dimensions(i.shape)[place]
        if not label.isdigit():
            total *= size
            continue

        def of(name: str, default: str, axis: int = int(label)) -> list[int]:
            return [int(x) for x in window.get(name, "x".join([default] * spatial)).split("x")[axis].split("_")]

        (stride,), (dilation,), (dilated) = of("stride", "1"), of("rhs_dilate", "1"), of("lhs_dilate", "1")[0]
        length = (left[inputs.index(label)] - 1) * dilated + 1
        at = np.arange(size)[:, None] * stride + np.arange(right[kernels.index(label)])[None, :] * dilation - of("pad", "0_0")[0]
        total *= int(((at >= 0) & (at < length) & (at % dilated == 0)).sum())
    return total
