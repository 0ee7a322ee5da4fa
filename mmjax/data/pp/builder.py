"""Preprocessing as a string: "decode|resize(48)|random_affine(10, 0.1)|flip_lr".

The operations of a stream are the functions of the module of its kind (`pp/image.py` for `image` and `image_depth`),
or any function by its dotted name (`my_pkg.my_ops.solarize(0.5)`). Arguments are literals: the string is parsed, never
evaluated. A function takes the arguments and returns the operation itself, `op(x)` or, if it draws, `op(x, rng)`.
With `rng=None`, in evaluation, an operation does the one thing that stands for all its draws: nothing for an
augmentation, the centre for a crop, the first for a choice. An operation that returns None says the stream is absent.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mmjax.config import ConfigError, import_name, nearest
from mmjax.contract import kind


class Padded(NamedTuple):
    """What an operation returns for a stream of ragged length: the array and which positions are real."""

    value: np.ndarray
    valid: np.ndarray


class Pipeline(NamedTuple):
    """The operations of a stream. What comes before the first that draws is the same every time."""

    ops: tuple[Callable, ...]
    names: tuple[str, ...]

    @property
    def fixed(self) -> int:
        """How many operations come before the first that draws."""
        return next((i for i, op in enumerate(self.ops) if _draws(op)), self.readable)

    @property
    def readable(self) -> int:
        """How many operations leave something that a person can look at: those before `tokens`."""
        return self.names.index("tokens") if "tokens" in self.names else len(self.ops)

    def __call__(self, x: Any, rng: np.random.Generator | None, start: int = 0, stop: int | None = None) -> Any:
        for op in self.ops[start:stop]:
            x = op(x, rng) if _draws(op) else op(x)
            if x is None:
                return None
        return x


def _draws(op: Callable) -> bool:
    return len(inspect.signature(op).parameters) > 1


def _calls(node: ast.expr) -> list[ast.expr]:
    """`a|b(1)|c` from left to right."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_calls(node.left), *_calls(node.right)]
    return [node]


def _find(dotted: str, stream: str, path: str) -> Callable:
    if "." in dotted:
        module, _, name = dotted.rpartition(".")
        return import_name(f"{module}:{name}", path)
    try:
        module = importlib.import_module(f"mmjax.data.pp.{kind(stream)}")
    except ModuleNotFoundError:
        raise ConfigError(f"{path}: there are no operations for streams of kind {kind(stream)!r}.") from None
    known = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__ and n[0] != "_"]
    if dotted not in known:
        raise ConfigError(f"{path}: {dotted!r} is no operation on {kind(stream)}.{nearest(dotted, known)}")
    return getattr(module, dotted)


def parse(text: str, stream: str, provided: Mapping[str, Any] | None = None) -> Pipeline:
    """The pipeline that `text` describes. `provided` are keyword arguments for the operations that name them.

    Raises:
        ConfigError: the string does not parse, or an operation is unknown or given arguments that it does not take.
    """
    path = f"data.pp.{stream}"
    try:
        kind(stream)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        calls = _calls(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ConfigError(f'{path}={text!r} does not parse at position {error.offset}: it should read like "decode|resize(48)".') from None
    ops, names = [], []
    for call in calls:
        name = ast.unparse(call.func if isinstance(call, ast.Call) else call)
        factory = _find(name, stream, path)
        try:
            args = [ast.literal_eval(a) for a in call.args] if isinstance(call, ast.Call) else []
            kwargs = {k.arg: ast.literal_eval(k.value) for k in call.keywords} if isinstance(call, ast.Call) else {}
        except ValueError:
            raise ConfigError(f"{path}: the arguments of {ast.unparse(call)} should be plain numbers, strings or lists.") from None
        signature = inspect.signature(factory)
        kwargs |= {k: v for k, v in (provided or {}).items() if k in signature.parameters}
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            shown = ", ".join(str(p) for p in signature.parameters.values() if p.name not in (provided or {}))
            raise ConfigError(f"{path}: {ast.unparse(call)}: {error}. It is {name}({shown}).") from None
        ops.append(factory(*args, **kwargs))
        names.append(name)
    return Pipeline(tuple(ops), tuple(names))
