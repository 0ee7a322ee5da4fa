"""Optimizers and schedules from optax by name, with ordered regex rules over parameter paths."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from mmjax.config import ConfigError, check_call, nearest
from mmjax.train.moments import KINDS, stored, whole

SCHEDULES = ("constant", "cosine", "linear", "rsqrt")


class Rule(NamedTuple):
    """What holds for the parameters whose whole path a rule's regex matches."""

    lr: float = 1.0  # factor on the learning rate
    decay: float = 0.0  # weight decay, decoupled: a step shrinks the weight by lr * decay (Loshchilov & Hutter, 2019)
    freeze: bool = False
    moments: str | None = None  # instead of the optimizer's


def make_schedule(name: str, peak: float, steps: int, warmup: int = 0) -> Callable[[Any], Float[Array, ""]]:
    """Linear warm-up to `peak` at step `warmup`, then the named decay; cosine and linear end at 0 after `steps`.

    `rsqrt` is peak * sqrt(warmup / step) (Vaswani et al., 2017, eq. 3, in terms of its peak).
    """
    if name not in SCHEDULES:
        raise ConfigError(f"optimizer.schedule: {name!r} is unknown.{nearest(name, SCHEDULES)}")
    if not 0 <= warmup <= steps:
        raise ConfigError(f"optimizer.warmup={warmup} should be between 0 and steps={steps}.")

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        done = (step - warmup) / max(steps - warmup, 1)
        after = {
            "constant": lambda: jnp.ones(()),
            "cosine": lambda: 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0))),
            "linear": lambda: 1 - jnp.clip(done, 0.0, 1.0),
            "rsqrt": lambda: jnp.sqrt(max(warmup, 1) / jnp.maximum(step, max(warmup, 1))),
        }[name]()
        return peak * jnp.where(step < warmup, (step + 1) / max(warmup, 1), after)

    return schedule


# Their steps are not proportional to their learning rate, or need more than a gradient.
_OTHERS = ("lbfgs", "prodigy", "rprop", "schedule_free_sgd", "schedule_free_adamw", "dadapt_adamw", "momo", "momo_adam", "dog", "dowg")


def known_optimizers() -> dict[str, Callable]:
    """Every optimizer of optax and optax.contrib that needs a learning rate alone and whose steps are proportional to it."""
    found = {}
    for module in (optax.contrib, optax):
        for name, fn in inspect.getmembers(module, inspect.isfunction):
            parameters = list(inspect.signature(fn).parameters.values())
            if (
                name not in _OTHERS
                and parameters
                and parameters[0].name == "learning_rate"
                and all(p.default is not p.empty for p in parameters[1:])
            ):
                found[name] = fn
    return found


def paths(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dict as {'a/b/c': leaf}."""
    return flatten_dict(tree, sep="/")


def count(params: Mapping[str, Any]) -> int:
    """How many numbers parameters are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


class Optimizer:
    """A named optax optimizer under rules; gradients and optimizer state exist only for what the rules do not freeze.

    Args:
        name: `adamw`, `lion`, `muon`, `adafactor`, `sgd`, or any other of optax that needs only a learning rate.
        lr, schedule, warmup: the peak, what follows it, and the steps up to it; see `make_schedule`.
        rules: [(regex, dict(lr=factor, decay=..., freeze=...))], the first whose regex matches a parameter's whole
            path holds; a parameter that none matches is an error.
        clip: largest norm of the whole gradient.
        ema: decay of the parameters' moving average, which evaluation then uses; it warms up as (1 + t) / (10 + t).
        accumulate: micro-batches that a batch is cut into; their gradients add up to that of the whole batch.
        cache: micro-batches in which the model sees a batch that losses see whole: the memory of one micro-batch's
            activations for the price of a second forward pass (GradCache: Gao et al., 2021). Gradients are exact, those of
            losses that compare rows too; batch normalisation is over micro-batches.
        moments: how the optimizer's state is kept between steps, `float32`, `bfloat16` or `int8`; see `moments.py`.
        moments_min_size: elements from which a parameter's state is kept so.
        options: further arguments of the optax function, such as `b2`.
    """

    def __init__(
        self,
        *,
        steps: int,
        name: str = "adamw",
        lr: float = 1e-3,
        schedule: str = "cosine",
        warmup: int = 0,
        rules: Sequence[Sequence[Any]] = ((".*", {}),),
        clip: float | None = None,
        ema: float | None = None,
        accumulate: int = 1,
        cache: int = 1,
        moments: str = "float32",
        moments_min_size: int = 4_096,
        **options: Any,
    ):
        known = known_optimizers()
        if name not in known:
            raise ConfigError(f"optimizer.name: {name!r} is no optimizer of optax.{nearest(name, known)}")
        own = [key for key in inspect.signature(Optimizer).parameters if key not in ("steps", "options")]
        check_call(known[name], options, "optimizer", provided=("learning_rate", "weight_decay"), common=own)
        takes = inspect.signature(known[name]).parameters
        # At a learning rate of 1 and without decay the update is the plain direction: schedule, decay and
        # factors are applied to it here, the same for every optimizer.
        fixed: dict[str, Any] = {key: value for key, value in {"weight_decay": 0.0}.items() if key in takes}
        if name == "muon":
            fixed["muon_weight_dimension_numbers"] = _muon_matrices
        self.tx = known[name](1.0, **fixed, **options)
        if clip is not None:
            self.tx = optax.chain(optax.clip_by_global_norm(clip), self.tx)
        self.schedule = make_schedule(schedule, lr, steps, warmup)
        self.rules = []
        for i, (pattern, what) in enumerate(rules):
            try:
                self.rules.append((re.compile(pattern), Rule(**check_call(Rule, what, f"optimizer.rules[{i}]"))))
            except re.error as error:
                raise ConfigError(f"optimizer.rules[{i}]: {pattern!r} is no regular expression: {error}.") from None
        told = {"moments": moments, **{f"rules[{i}].moments": rule.moments for i, (_, rule) in enumerate(self.rules)}}
        for key, kind in told.items():
            if kind not in KINDS and (kind is not None or key == "moments"):
                raise ConfigError(f"optimizer.{key}={kind!r} is unknown.{nearest(str(kind), KINDS)}")
        for key, parts in {"accumulate": accumulate, "cache": cache}.items():
            if parts < 1:
                raise ConfigError(f"optimizer.{key}={parts} should be at least 1.")
        if accumulate > 1 and cache > 1:
            raise ConfigError(
                f"optimizer.accumulate={accumulate} and cache={cache} both cut a batch into micro-batches: take one of the two."
            )
        self.ema_decay, self.accumulate, self.cache = ema, accumulate, cache
        self.moments, self.moments_min_size = moments, moments_min_size

    def scaled(self, factor: Any) -> Optimizer:
        """The same with `factor` times the learning rate, which may be a traced number."""
        other, schedule = copy.copy(self), self.schedule
        other.schedule = lambda step: factor * schedule(step)
        return other

    def rule(self, path: str) -> Rule:
        """The rule that holds for a parameter."""
        for pattern, rule in self.rules:
            if pattern.fullmatch(path):
                return rule
        raise ConfigError(f"optimizer.rules cover no parameter {path!r}: end them with ('.*', dict(...)).")

    def split(self, params: Mapping[str, Any]) -> tuple[dict, dict]:
        """The parameters that are trained, and those that are frozen, as two nested dicts."""
        flat = paths(params)
        trained = {path: value for path, value in flat.items() if not self.rule(path).freeze}
        if not trained:
            raise ConfigError("optimizer.rules freeze every parameter.")
        frozen = {path: value for path, value in flat.items() if path not in trained}
        return unflatten_dict(trained, sep="/"), unflatten_dict(frozen, sep="/")

    def init(self, params: Mapping[str, Any]) -> optax.OptState:
        """The state for the trained parameters."""
        trained = self.split(params)[0]
        with jax.numpy_dtype_promotion("standard"):
            state, kinds = self.tx.init(trained), self.kinds(trained)
            # Zeros to the compiler, which would otherwise compute what becomes of them, and takes seconds.
            return stored(jax.lax.optimization_barrier(state), kinds, jnp.int32(-1)) if kinds else state

    def kinds(self, trained: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shapes of the parameters whose moments are not kept in float32, and how they are kept instead."""
        large = {path: x.shape for path, x in paths(trained).items() if x.ndim > 1 and x.size >= self.moments_min_size}
        found = {path: (shape, self.rule(path).moments or self.moments) for path, shape in large.items()}
        return {path: (shape, kind) for path, (shape, kind) in found.items() if kind != "float32"}

    def update(self, grads: Any, state: optax.OptState, trained: Any, step: Array) -> tuple[Any, optax.OptState]:
        """The trained parameters after one step, and the new state."""
        with jax.numpy_dtype_promotion("standard"):
            if kinds := self.kinds(trained):
                state = whole(state, kinds, jax.eval_shape(self.tx.init, trained))
            directions, state = self.tx.update(grads, state, trained)
            state = stored(state, kinds, step)
            lr = self.schedule(step)

            def move(path, param, direction):
                rule = self.rule(path)
                return (param + lr * rule.lr * (direction - rule.decay * param)).astype(param.dtype)

            flat, moves = paths(trained), paths(cast(dict, directions))
            return unflatten_dict({path: move(path, param, moves[path]) for path, param in flat.items()}, sep="/"), state

    def average(self, ema: Any, params: Any, step: Array) -> Any:
        """The moving average after a step."""
        if self.ema_decay is None:
            return ema
        step = step.astype(jnp.float32)
        decay = jnp.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
        old, new = paths(ema), paths(params)  # what is frozen is its own average, to the bit
        moved = {path: p if self.rule(path).freeze else (decay * old[path] + (1 - decay) * p).astype(p.dtype) for path, p in new.items()}
        return unflatten_dict(moved, sep="/")


def merge(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict:
    """Two nested dicts without a leaf in common as one."""
    return unflatten_dict({**paths(a), **paths(b)}, sep="/")


def _muon_matrices(params: Any) -> Any:
    """Muon is for the matrices of hidden layers (Jordan et al., 2024); embeddings, vectors and the rest get its Adam."""
    matrix = optax.contrib.MuonDimensionNumbers()
    return unflatten_dict(
        {p: matrix if getattr(v, "ndim", 0) == 2 and p.endswith("kernel") else None for p, v in paths(params).items()}, sep="/"
    )
