"""Few new parameters beside a model that stays as it is, put by regex at any of its modules; see `KINDS`.

    adapt=[("image/.*/(query|value)", dict(name="lora", rank=8))]

They lie under `adapters/<path of the module>` among the model's parameters; `optimizer.rules` freeze the rest (of the model's
own parameters, biases alone are trained by such a rule, too: BitFit, Ben Zaken et al., 2022). All begin as the function that
is already there, but `prefix`, which begins near it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PRNGKeyArray

from mmjax.config import ConfigError, check_call, nearest
from mmjax.contract import fold_name
from mmjax.nn.transformer import Attention, Block, Mlp, Transformer

NAME = "adapters"


class Sizes(NamedTuple):
    """What an adapter is told of its module: the widths that go in and come out."""

    before: int
    after: int


class Lora:
    """y + alpha / rank * (x A) B beside a dense layer; B begins at 0. Hu et al., 2022, 'LoRA', eq. 3."""

    modules: ClassVar = (nn.Dense,)
    arrays: ClassVar = ("a", "b")

    def __init__(self, rank: int = 8, alpha: float | None = None):
        if rank < 1:
            raise ConfigError(f"adapt: rank={rank} should be at least 1.")
        self.rank, self.scale = rank, (rank if alpha is None else alpha) / rank

    def init(self, key: PRNGKeyArray, sizes: Sizes) -> dict[str, Array]:
        """A and B."""
        a = nn.initializers.he_uniform()(key, (sizes.before, self.rank), jnp.float32)
        return {"a": a, "b": jnp.zeros((self.rank, sizes.after))}

    def __call__(self, own: Mapping[str, Array], module: Any, call: Any, x: Array, *args: Any, **kwargs: Any) -> Any:
        """What the module gives, by `call`, and what is added."""
        y = call(x, *args, **kwargs)
        a, b = (own[name].astype(y.dtype) for name in ("a", "b"))
        return y + jnp.asarray(self.scale, y.dtype) * ((x.astype(y.dtype) @ a) @ b)

    def merged(self, own: Mapping[str, Array], kernel: Array) -> Array:
        """The kernel that does the same alone."""
        return kernel + self.scale * own["a"] @ own["b"]


class Dora(Lora):
    """The merged kernel's columns scaled to lengths that are learned: Liu et al., 2024, 'DoRA', eq. 5; to the lengths that
    they have without it goes no gradient (sec. 4.3).
    """

    arrays: ClassVar = ("a", "b", "length")

    def init(self, key: PRNGKeyArray, sizes: Sizes) -> dict[str, Array]:
        """A, B, and the lengths of the kernel's columns, which it begins with."""
        return {**super().init(key, sizes), "length": jnp.zeros(sizes.after)}

    def __call__(self, own: Mapping[str, Array], module: Any, call: Any, x: Array, *args: Any, **kwargs: Any) -> Any:
        """What the module gives, by `call`, and what is added."""
        y = call(x, *args, **kwargs)
        params = module.variables["params"]
        whole = self.merged(own, params["kernel"]).astype(y.dtype)
        y = x.astype(y.dtype) @ whole
        return y + _row(params["bias"].astype(y.dtype), y) if "bias" in params else y

    def merged(self, own: Mapping[str, Array], kernel: Array) -> Array:
        """The kernel that does the same alone."""
        moved = super().merged(own, kernel)
        before, now = (jnp.linalg.norm(k, axis=0, keepdims=True) for k in (kernel, jax.lax.stop_gradient(moved)))
        return moved * (before + own["length"][None]) / jnp.maximum(now, 1e-12)


class Bottleneck:
    """y + up(gelu(down(y))) behind an attention, an MLP or a block; `up` begins at 0. Houlsby et al., 2019, sec. 2.1."""

    modules: ClassVar = (Attention, Mlp, Block, nn.Dense)
    arrays: ClassVar = ("down", "down_bias", "up", "up_bias")

    def __init__(self, width: int = 64):
        if width < 1:
            raise ConfigError(f"adapt: width={width} should be at least 1.")
        self.width = width

    def init(self, key: PRNGKeyArray, sizes: Sizes) -> dict[str, Array]:
        """The two layers, with biases."""
        down = nn.initializers.xavier_uniform()(key, (sizes.after, self.width), jnp.float32)
        up = {"up": jnp.zeros((self.width, sizes.after)), "up_bias": jnp.zeros(sizes.after)}
        return {"down": down, "down_bias": jnp.zeros(self.width), **up}

    def __call__(self, own: Mapping[str, Array], module: Any, call: Any, x: Array, *args: Any, **kwargs: Any) -> Any:
        """What the module gives, by `call`, and what is added."""
        y = call(x, *args, **kwargs)
        own = {name: value.astype(y.dtype) for name, value in own.items()}
        hidden = nn.gelu(y @ own["down"] + _row(own["down_bias"], y))
        return y + hidden @ own["up"] + _row(own["up_bias"], y)


class Prefix:
    """Vectors that are learned stand before what an attention attends to: Li & Liang, 2021, 'Prefix-Tuning'.

    They pass the attention's own key and value layers, where the paper learns what comes out of these. Not for causal
    attention, whose positions they would move.
    """

    modules: ClassVar = (Attention,)
    arrays: ClassVar = ("prefix",)

    def __init__(self, length: int = 8):
        if length < 1:
            raise ConfigError(f"adapt: length={length} should be at least 1.")
        self.length = length

    def init(self, key: PRNGKeyArray, sizes: Sizes) -> dict[str, Array]:
        """The vectors."""
        return {"prefix": nn.initializers.normal(0.02)(key, (self.length, sizes.before), jnp.float32)}

    def __call__(
        self,
        own: Mapping[str, Array],
        module: Any,
        call: Any,
        x: Float[Array, "B N D"],
        context: Any = None,
        valid: Any = None,
        bias: Any = None,
    ) -> Any:
        """What the attention gives of a longer context; a row of which nothing is valid sees no prefix either."""
        if module.causal or bias is not None:
            raise ConfigError("adapt: a prefix is not for causal attention, nor for one with relative positions. Take lora, or adapters.")
        seen = x if context is None else context
        rows = seen.shape[0]
        prefix = jnp.broadcast_to(own["prefix"][None].astype(seen.dtype), (rows, *own["prefix"].shape))
        if valid is not None:
            valid = jnp.concatenate([jnp.broadcast_to(valid.any(axis=1, keepdims=True), (rows, self.length)), valid], axis=1)
        return call(x, jnp.concatenate([prefix, seen], axis=1), valid)


KINDS = {"lora": Lora, "dora": Dora, "adapter": Bottleneck, "prefix": Prefix}


class Adapters:
    """Rules [(regex, dict(name=..., ...))] over the paths of a model's modules; the first that matches a module holds.

    Raises:
        ConfigError: a rule is none, or (at `init`) matches no module that its adapter fits.
    """

    def __init__(self, rules: Sequence[Sequence[Any]]):
        self.rules = []
        for i, rule in enumerate(rules):
            where = f"adapt[{i}]"
            if len(rule) != 2 or not isinstance(rule[0], str) or not isinstance(rule[1], Mapping) or "name" not in rule[1]:
                raise ConfigError(f"{where}={rule!r} should be (regex, dict(name=...)).")
            pattern, node = rule
            if node["name"] not in KINDS:
                raise ConfigError(f"{where}.name: {node['name']!r} is unknown.{nearest(node['name'], KINDS)}")
            kind = KINDS[node["name"]]
            try:
                self.rules.append((re.compile(pattern), kind(**check_call(kind, node, where))))
            except re.error as error:
                raise ConfigError(f"{where}: {pattern!r} is no regular expression: {error}.") from None

    def of(self, module: nn.Module) -> Any:
        """The adapter of a module, or None."""
        path = "/".join(module.path)
        return next((kind for pattern, kind in self.rules if isinstance(module, kind.modules) and pattern.fullmatch(path)), None)

    def init(self, key: PRNGKeyArray, module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The parameters of all adapters of a module that is called so, as a nested dict."""
        found: dict[str, tuple[Any, Sizes]] = {}
        paths: set[str] = set()
        scanned: list[str] = []

        def note(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if context.method_name == "__call__":
                own, path = self.of(context.module), "/".join(context.module.path)
                paths.add(path)
                if own is not None:
                    found[path] = (own, Sizes(args[0].shape[-1], y.shape[-1]))
                if isinstance(context.module, Transformer) and context.module.scan:
                    scanned.append(f"{path}/")
            return y

        def run():
            with nn.intercept_methods(note):
                module.init(key, *args, **kwargs)

        jax.eval_shape(run)
        for pattern, kind in self.rules:
            if not any(own is kind for own, _ in found.values()):
                fits = ", ".join(cls.__name__ for cls in kind.modules)
                raise ConfigError(f"adapt: {pattern.pattern!r} matches no {fits} of the model.{nearest(pattern.pattern, sorted(paths))}")
        if inside := [path for path in found if path.startswith(tuple(scanned))]:
            raise ConfigError(
                f"adapt: {inside[0]} stands in blocks that run as one (scan=True), which has no adapters: leave scan out there."
            )
        made = {path: own.init(fold_name(key, f"{NAME}/{path}"), sizes) for path, (own, sizes) in found.items()}
        return unflatten_dict(made, sep="/")

    @contextmanager
    def applied(self, own: Mapping[str, Any]) -> Iterator[None]:
        """Within this, modules give what their adapters make of them."""

        def adapt(call, args, kwargs, context):
            kind = self.of(context.module) if context.method_name == "__call__" else None
            params = own
            for name in context.module.path if kind is not None else ():
                if name not in params:
                    return call(*args, **kwargs)
                params = params[name]
            return call(*args, **kwargs) if kind is None else kind(params, context.module, call, *args, **kwargs)

        with nn.intercept_methods(adapt):
            yield

    def merged(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of the same model without adapters.

        Raises:
            ConfigError: an adapter is more than another kernel.
        """
        rest = {name: tree for name, tree in params.items() if name != NAME}
        flat: dict[str, Any] = dict(flatten_dict(rest, sep="/"))
        for path, own in _leaves(params.get(NAME, {})):
            kinds = (kind for pattern, kind in self.rules if pattern.fullmatch(path) and set(kind.arrays) == set(own))
            kind = next(kinds, None)
            if not isinstance(kind, Lora):
                raise ConfigError(f"adapt: the adapter of {path} cannot be merged into it: only lora and dora can.")
            flat[f"{path}/kernel"] = kind.merged(own, flat[f"{path}/kernel"])
        return unflatten_dict(flat, sep="/")


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Array]]]:
    """(path of a module, its adapter's arrays)."""
    if any(not isinstance(value, Mapping) for value in tree.values()):
        yield path, tree
        return
    for name, below in tree.items():
        yield from _leaves(below, f"{path}/{name}".strip("/"))


def _row(bias: Array, y: Array) -> Array:
    return bias.reshape((1,) * (y.ndim - 1) + bias.shape)
