"""Preprocessing as a string: "decode|resize(48)|random_affine(10, 0.1)|flip_lr".

The operations of a stream are the functions of the module of its kind (`pp/image.py` for `image` and `image_depth`),
with those that it imports from beside it, or any function by its dotted name (`my_pkg.my_ops.solarize(0.5)`). Arguments
are literals: the string is parsed, never evaluated. A function takes the arguments and returns the operation itself,
`op(x)` or, if it draws, `op(x, rng)`.
With `rng=None`, in evaluation, an operation does the one thing that stands for all its draws: nothing for an
augmentation, the centre for a crop, the first for a choice. An operation that returns None says the stream is absent.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from mmjax.config import ConfigError, import_name, nearest
from mmjax.contract import KINDS, TARGETS, kind

# What these operations give is for models, not for people: a clip, for one, has its rate before `crop_or_pad`.
UNSEEN = ("tokens", "hog", "crop_or_pad", "patches")


class Padded(NamedTuple):
    """What an operation returns for a stream of ragged length: the array and which positions are real."""

    value: np.ndarray
    valid: np.ndarray


class Pipeline(NamedTuple):
    """The operations of a stream. What comes before the first that draws is the same every time."""

    ops: tuple[Callable, ...]
    names: tuple[str, ...]
    draws: tuple[bool, ...]

    @property
    def fixed(self) -> int:
        """How many operations come before the first that draws, none after `UNSEEN` ones among them."""
        return min(self.readable, self.draws.index(True) if True in self.draws else len(self.ops))

    @property
    def readable(self) -> int:
        """How many operations leave something that a person can look at: those before `UNSEEN` ones."""
        return next((i for i, name in enumerate(self.names) if name in UNSEEN), len(self.ops))

    @property
    def choosing(self) -> int:
        """How many operations it takes to choose one of several items; 0 where there is no `choose`."""
        return self.names.index("choose") + 1 if "choose" in self.names else 0

    def __call__(self, x: Any, rng: np.random.Generator | None, start: int = 0, stop: int | None = None) -> Any:
        """What the operations from `start` to `stop` make of `x`; with `rng=None` nothing is drawn."""
        for op, draws in zip(self.ops[start:stop], self.draws[start:stop], strict=True):
            x = op(x, rng) if draws else op(x)
            if x is None:
                return None
        return x


def _calls(node: ast.expr) -> list[ast.expr]:
    """`a|b(1)|c` from left to right."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_calls(node.left), *_calls(node.right)]
    return [node]


def _find(dotted: str, stream: str, path: str, package: str) -> Callable:
    if "." in dotted:
        module, _, name = dotted.rpartition(".")
        found = import_name(f"{module}:{name}", path)
        if not callable(found):
            raise ConfigError(f"{path}: {dotted} is {type(found).__name__}: it should be a function that returns the operation.")
        return found
    name = f"{package}.{kind(stream)}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(f"{path}: there are no operations for streams of kind {kind(stream)!r}.") from None
    known = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__.startswith(f"{package}.") and n[0] != "_"]
    if dotted not in known:
        raise ConfigError(f"{path}: {dotted!r} is no operation on {kind(stream)}.{nearest(dotted, known)}")
    return getattr(module, dotted)


def _operation(call: ast.expr, stream: str, provided: Mapping[str, Any], path: str, package: str) -> tuple[str, Callable]:
    """The name and the operation that one call describes."""
    function, args, keywords = (call.func, call.args, call.keywords) if isinstance(call, ast.Call) else (call, [], [])
    name, shown = ast.unparse(function), ast.unparse(call)
    factory = _find(name, stream, path, package)
    try:
        values = [ast.literal_eval(a) for a in args]
        named = {k.arg or "**": ast.literal_eval(k.value) for k in keywords}
    except (ValueError, TypeError):
        raise ConfigError(f"{path}: the arguments of {shown} should be plain numbers, strings or lists.") from None
    signature = inspect.signature(factory)
    named |= {k: v for k, v in provided.items() if k in signature.parameters}
    try:
        signature.bind(*values, **named)
    except TypeError as error:
        known = {k: str(p.replace(annotation=p.empty)) for k, p in signature.parameters.items() if k not in provided}
        unknown = next((k for k in named if k not in signature.parameters), None)
        hint = nearest(unknown, known) if unknown else f" It is {name}({', '.join(known.values())})."
        raise ConfigError(f"{path}: {shown}: {error}.{hint}") from None
    try:
        op = factory(*values, **named)
    except ValueError as error:
        raise ConfigError(f"{path}: {shown}: {error}.") from error
    if not callable(op):
        raise ConfigError(f"{path}: {shown} gives {type(op).__name__}: it should return the operation, a function.")
    return name, op


def operations(
    text: str, stream: str, provided: Mapping[str, Any], path: str, *, package: str = "mmjax.data.pp"
) -> list[tuple[str, Callable]]:
    """Name and operation of every call in `text`, looked up in the module of the stream's kind in `package`; see `parse`."""
    path = f"{path}.{stream}"
    try:
        kind(stream)
    except ValueError:
        raise ConfigError(
            f"{path}: a stream is named by its kind, as 'image' or 'image_depth'.{nearest(stream, (*KINDS, *TARGETS))}"
        ) from None
    try:
        calls = _calls(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        where = f" at position {error.offset}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(f'{path}={text!r} does not parse{where}: it should read like "decode|resize(48)".') from None
    return [_operation(call, stream, provided, path, package) for call in calls]


def inserted(text: str, operation: str, before: Collection[str] = ()) -> str:
    """The string with one more operation, before the first of those that `before` names, or at the end."""
    calls = _calls(ast.parse(text.strip(), mode="eval").body)
    names = [ast.unparse(call.func if isinstance(call, ast.Call) else call) for call in calls]
    place = next((i for i, name in enumerate(names) if name in before), len(calls))
    return "|".join([*map(ast.unparse, calls[:place]), operation, *map(ast.unparse, calls[place:])])


def parse(text: str, stream: str, provided: Mapping[str, Any] | None = None, path: str = "data.pp") -> Pipeline:
    """The pipeline that `text` describes. `provided` are keyword arguments for the operations that name them.

    `path` is where in the config it stands, for the errors.

    Raises:
        ConfigError: the string does not parse, or an operation is unknown or given arguments that it does not take.
    """
    names, ops = zip(*operations(text, stream, provided or {}, path), strict=True)
    return Pipeline(ops, names, tuple(len(inspect.signature(op).parameters) > 1 for op in ops))
