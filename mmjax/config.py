"""A config names what it wants ("vit", or "my_pkg.my_file:MyEncoder"); this resolves the name and checks the rest.

A part's config is a mapping with the part's `name` and the arguments of its class. There is no registry: a short
name is a file in the folder of its kind, the class in it is called like the file (`text_transformer` is
`TextTransformer`, `vit` is `ViT`), and what the class may be given is read off its signature.
"""

from __future__ import annotations

import ast
import copy
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any


class UserError(Exception):
    """Something that its user can put right: shown as one message, without a traceback."""


class ConfigError(UserError):
    """A config that cannot run as it stands."""


class DataError(UserError):
    """Data that is missing, unreadable or not what the config says."""


class CheckpointError(UserError):
    """A checkpoint or run folder that does not fit, or could not be written."""


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' with the closest known name, followed by all of them, or the first fifty."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (
        f" Did you mean {close[0]!r}?" if close else ""
    ) + f" Known: {', '.join(known[:50]) or 'none'}{f' and {len(known) - 50} more' if len(known) > 50 else ''}."


def parse_arg(arg: str, **defaults: Any) -> SimpleNamespace:
    """Reads a config's `key=value,...` argument; a bare `key` means True, and values take the type of their default."""
    values = dict(defaults)
    for part in filter(None, (p.strip() for p in arg.split(","))):
        key, _, text = part.partition("=")
        if key not in defaults:
            raise ConfigError(f"The config's argument {key!r} is unknown.{nearest(key, defaults)}")
        try:
            value = ast.literal_eval(text.capitalize() if text.lower() in ("true", "false") else text) if text else True
        except (ValueError, SyntaxError):
            value = text
        kind = type(defaults[key])
        if kind is float and type(value) is int:
            value = float(value)
        if kind is str and text:
            value = value if isinstance(value, str) else text  # a file may be called 1
        if defaults[key] is not None and type(value) is not kind:
            raise ConfigError(f"The config's argument {key}={text!r} should be of type {kind.__name__}.")
        values[key] = value
    return SimpleNamespace(**values)


def plain(value: Any) -> Any:
    """A config as plain dicts, lists and scalars, as JSON would give it back."""
    if hasattr(value, "items"):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def changed(config: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `config` with values at dotted paths replaced, or set where there were none.

    Raises:
        ConfigError: a path leads through something that is no mapping.
    """
    out = copy.deepcopy(dict(config))
    for path, value in (item for change in changes for item in change.items()):
        *parents, last = path.split(".")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{path!r} cannot be changed: {parent!r} holds no mapping.")
        node[last] = copy.deepcopy(value)
    return out


def differences(a: Any, b: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """{'optimizer.lr': (value in a, value in b)} for everything in which two plain configs differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        out = {}
        for key in [*a, *(k for k in b if k not in a)]:
            out |= differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
        return out
    return {} if a == b else {path: (a, b)}


def import_name(name: str, path: str) -> Any:
    """The object behind 'package.module:Object', or a ConfigError that says which half of it is missing."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(missing + "."):
            raise ConfigError(f"{path}: there is no module {module_name!r}. Is it on PYTHONPATH?") from None
        raise ConfigError(f"{path}: {module_name} needs the package {missing!r}, which is not installed: pip install {missing}") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"{path}: {module_name} has no {attribute!r}.{nearest(attribute, (n for n in vars(module) if n[0] != '_'))}")
    return getattr(module, attribute)


def names(kind: str) -> list[str]:
    """The short names of a kind: the files of its folder."""
    package = importlib.import_module(f"mmjax.{kind}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def resolve(kind: str, name: str, path: str | None = None) -> type:
    """The class that `name` means among the parts of `kind` ('encoders', 'objectives', 'data.sources', ...).

    `name` is a file of the kind's folder, 'file:Class' for another class of such a file, or 'package.module:Class'.
    """
    path = path or kind
    module, _, cls = name.partition(":")
    known = names(kind)
    if cls:
        return import_name(f"mmjax.{kind}.{name}" if module in known else name, path)
    if name not in known:
        raise ConfigError(f"{path}: {name!r} is not among the {kind}.{nearest(name, known)} Or name your own: 'my_pkg.my_file:MyClass'.")
    found = importlib.import_module(f"mmjax.{kind}.{name}")
    wanted = name.replace("_", "")
    classes = [c for n, c in vars(found).items() if n.lower() == wanted and inspect.isclass(c) and c.__module__ == found.__name__]
    if not classes:
        raise ConfigError(f"{path}: mmjax/{kind}/{name}.py has no class called like the file.")
    return classes[0]


_SET_ELSEWHERE = {"self", "parent", "name"}  # `name` selects the class, the other two belong to Python and flax


def check_call(
    fn: Callable, node: Mapping[str, Any], path: str, *, provided: Iterable[str] = (), common: Iterable[str] = ()
) -> dict[str, Any]:
    """`node` as keyword arguments of `fn`, or a ConfigError that names the key which does not fit.

    `provided` are arguments that the code passes itself; `common` are keys of `node` that are not for `fn`.
    """
    parameters = inspect.signature(fn).parameters.values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    known = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for key in (*_SET_ELSEWHERE, *provided):
        known.pop(key, None)
    arguments = {key: value for key, value in node.items() if key not in common and key != "name"}
    for key in arguments:
        if key not in known and not takes_any:
            raise ConfigError(f"{path}.{key} is unknown.{nearest(key, [*known, *common])}")
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise ConfigError(f"{path}.{key} is missing: {getattr(fn, '__name__', fn)} needs it.")
    return arguments


def check_part(kind: str, node: Any, path: str, *, provided: Iterable[str] = (), common: Iterable[str] = ()) -> type:
    """Resolves the class of a part's config and checks the other keys against what the class takes."""
    if not isinstance(node, Mapping) and not hasattr(node, "items"):
        raise ConfigError(f"{path} should be a mapping with a 'name', not {node!r}.")
    if not isinstance(node.get("name"), str):
        raise ConfigError(f"{path}.name is missing: one of {', '.join(names(kind))}, or 'my_pkg.my_file:MyClass'.")
    cls = resolve(kind, node["name"], f"{path}.name")
    if hasattr(cls, "variants"):
        node, common = with_variant(cls, node, path), (*common, "variant")
    check_call(cls, node, path, provided=provided, common=common)
    return cls


def with_variant(cls: type, node: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """A part's config with the arguments that its `variant` stands for: those of `cls.variants`, unless it has its own."""
    variants = getattr(cls, "variants", None)
    if variants is None or "variant" not in node:
        return node
    if node["variant"] not in variants:
        raise ConfigError(f"{path}.variant: {node['variant']!r} is unknown.{nearest(str(node['variant']), variants)}")
    return {**variants[node["variant"]], **{key: value for key, value in node.items() if key != "variant"}}


def build(kind: str, node: Any, path: str, *, common: Iterable[str] = (), **provided: Any) -> Any:
    """The part that a config names, with the config's arguments and `provided`."""
    cls = check_part(kind, node, path, provided=provided, common=common)
    arguments = {key: value for key, value in with_variant(cls, node, path).items() if key not in common and key != "name"}
    return cls(**arguments, **provided)
