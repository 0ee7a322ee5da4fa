"""The checks for a part by its name, whoever wrote it."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mmjax import config
from mmjax.config import ConfigError
from mmjax.testing import checks, fusion, objectives

KINDS: dict[str, tuple[Callable[[Any], Any], tuple[Callable[[Any], None], ...]]] = {
    "fusion": (fusion.of_fusion, fusion.CHECKS),
    "encoders": (checks.of_encoder, checks.CHECKS),
    "objectives": (objectives.of_objective, objectives.CHECKS),
}


class Outcome(NamedTuple):
    """What became of a check: `error` is empty where it passed."""

    check: str
    says: str  # what the check is for
    error: str
    trace: str


def class_of(name: str) -> tuple[str, Any]:
    """The kind and the class that a name means: 'my_pkg.idea:Idea', or the file of a fusion, an encoder or an objective.

    Raises:
        ConfigError: there is none, or what is there is none of the three kinds.
    """
    known = {short: kind for kind in KINDS for short in config.names(kind)}
    short = name.partition(":")[0]
    if short in known:
        return known[short], config.resolve(known[short], name, "name")
    if ":" not in name:
        raise ConfigError(f"{name!r} is no part that has checks.{config.nearest(name, known)} Or name your own: 'my_pkg.my_file:MyClass'.")
    cls = config.import_name(name, "name")
    for needed in ("tiny", "__call__"):
        if not callable(getattr(cls, needed, None)):
            raise ConfigError(f"{name} has no {needed}. The checks begin with tiny() -> (instance, batch), as in mmjax/fusion/concat.py.")
    return _kind(cls, name), cls


def _kind(cls: Any, name: str) -> str:
    """By what it is called with: `(encodings, *, train)`, `(x, valid, present, *, train)` or `(ctx, outputs, batch)`."""
    parameters = [p for p in inspect.signature(cls.__call__).parameters.values() if p.name != "self"]
    plain = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    train = any(p.name == "train" for p in parameters)
    if train and len(plain) in (1, 3):
        return "fusion" if len(plain) == 1 else "encoders"
    if not train and len(plain) == 3:
        return "objectives"
    raise ConfigError(
        f"{name} is called with ({', '.join(p.name for p in parameters)}): a fusion with (encodings, *, train), "
        "an encoder with (x, valid, present, *, train), an objective with (ctx, outputs, batch)."
    )


def outcomes(kind: str, cls: Any) -> Iterator[Outcome]:
    """Runs every check of a kind on a class."""
    make, found = KINDS[kind]
    try:
        subject = make(cls)
    except Exception as error:
        yield Outcome("tiny", "tiny() gives an instance and a batch for it.", _said(error), traceback.format_exc())
        return
    for check in found:
        name, says = check.__name__.removeprefix("check_"), (check.__doc__ or "").strip().splitlines()[0]
        try:
            check(subject)
        except Exception as error:
            yield Outcome(name, says, _said(error), traceback.format_exc())
        else:
            yield Outcome(name, says, "", "")


def _said(error: Exception) -> str:
    """An assertion's own words, or another error with its type, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "simplicity, JAX has removed" not in line]
    text = " ".join(line for line in lines if not line.startswith("-----"))
    return (text if isinstance(error, AssertionError) and text else f"{type(error).__name__}: {text}")[:500]
