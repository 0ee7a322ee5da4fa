"""From a config to the parts of a run, with everything that can be wrong in it said before data is read."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax import config as configs
from mmjax.config import ConfigError, UserError, build, check_call
from mmjax.contract import BATCH_AXES, State
from mmjax.data.loader import Data
from mmjax.nn.adapters import NAME as ADAPTERS
from mmjax.nn.adapters import Adapters
from mmjax.nn.model import ModuleModel
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.linear_map import LinearMap
from mmjax.train.logging import RunLog
from mmjax.train.optim import Optimizer, make_schedule, paths
from mmjax.train.pretrained import check_init_from
from mmjax.train.sharding import check_batch_size, make_mesh, state_sharding
from mmjax.train.step import Functions, Model, Weighted, init_state, make_functions, make_step


class Parts(NamedTuple):
    """What a config describes."""

    config: dict[str, Any]
    data: Data
    mesh: Mesh
    model: Model
    objectives: dict[str, Weighted]
    optimizer: Optimizer
    evals: dict[str, tuple[Any, dict[str, Any]]]  # the evaluator, and when and on what it runs
    linear_map: LinearMap | None = None  # what projections are solved by before step 0

    def open_data(self) -> None:
        """Opens every split that the run will read: what is wrong with one is said before the folder is this config's."""
        self.data.open(["train"])
        for name, (_, when) in self.evals.items():
            try:
                when["data"].open(filter(None, (when["split"], when["final"])))
            except UserError as error:
                raise type(error)(f"evals.{name}: {error}") from error

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Of all data that is open, {"data": {split: fingerprint}, "evals.<name>": {...}}."""
        others = {f"evals.{name}": when["data"] for name, (_, when) in self.evals.items() if when["data"] is not self.data}
        return {place: data.fingerprints for place, data in {"data": self.data, **others}.items()}

    def step(self, shapes: State) -> Any:
        """The jitted training step; the state stays where `shapes` says, in the memory it had."""
        step = make_step(self.model, self.objectives, self.optimizer, self.data.batch_pp)
        return jax.jit(step, donate_argnums=0, out_shardings=(jax.tree.map(lambda s: s.sharding, shapes), None))

    def functions(self) -> Functions:
        """The pure functions that evaluators get."""
        return make_functions(self.model, self.objectives, self.data.batch_pp)

    def state_shapes(self) -> State:
        """Shapes and shardings of the whole state; nothing is computed."""
        sharding = NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))
        batch = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, (shape, dtype) in self.batch_shapes().items()}
        self._check_vocabulary()
        shapes = jax.eval_shape(self._init, batch, jax.eval_shape(lambda batch: self.data.batch_pp.fit(lambda: [batch]), batch))
        rules = {key: self.config["mesh"][key] for key in ("rules", "fsdp_min_size") if key in self.config["mesh"]}
        placed = state_sharding(self.mesh, shapes, **rules)
        return jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, placed)

    def _check_vocabulary(self) -> None:
        """Ids beyond an encoder's table would be NaN."""
        for stream, node in self.config["model"].get("encoders", {}).items():
            table = node.get("vocab") if isinstance(node, Mapping) else None
            if table is not None and stream in self.data.spec and table < self.data.tokenizer.vocab:
                raise ConfigError(
                    f"model.encoders.{stream}.vocab={table} is smaller than the tokenizer's {self.data.tokenizer.vocab} tokens. Raise "
                    "it or, for public weights, take their tokenizer: data.tokenizer=dict(name='file', path=...)."
                )

    def batch_shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shapes and types of a training batch."""
        size, shapes = self.data.batch_size, {}
        for stream, spec in self.data.spec.items():
            shapes[stream] = ((size, *spec.shape), spec.dtype)
            shapes[f"{stream}/present"] = ((size,), jnp.bool_)
            shapes[f"{stream}/key"] = ((size,), jnp.int32)
            if spec.ragged:
                shapes[f"{stream}/valid"] = ((size, spec.shape[0]), jnp.bool_)
        return shapes

    def training_shapes(self, shapes: State) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch as the training step reads it: what `data.encoded` names comes as encodings."""
        batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in self.batch_shapes().items()}
        variables = {"params": shapes.params["model"], **shapes.stats}
        for stream in self.data.encoded:
            own = {name: batch.pop(name) for name in (stream, f"{stream}/valid", f"{stream}/present") if name in batch}
            batch |= jax.eval_shape(partial(self._encode, stream=stream), variables, shapes.fitted, own)
        return batch

    def _encode(self, variables: Any, fitted: Any, batch: Any, stream: str) -> Any:
        model: Any = self.model
        return model.encode(variables, self.data.batch_pp(batch, fitted), stream)

    def encode(self, state: State) -> None:
        """Lets the encoders as they are encode what `data.encoded` names.

        Raises:
            ConfigError: the model has no encoder for a stream or trains it, or reads more of it than what is kept.
        """
        if not self.data.encoded:
            return
        model: Any = self.model
        encoders = getattr(model, "encoders", {})
        trained = self.optimizer.split(state.params)[0].get("model", {})
        for stream in self.data.encoded:
            if stream not in encoders:
                raise ConfigError(f"data.encoded: the model has no encoder for {stream!r}.{configs.nearest(stream, encoders)}")
            if (name := model.part(stream)) in trained:
                raise ConfigError(
                    f"data.encoded: {stream!r} is encoded once, but its encoder is trained: freeze it by a rule for model/{name}/.*"
                )
        if any(model.part(stream) in adapted for stream in self.data.encoded for adapted in [state.params["model"].get(ADAPTERS, {})]):
            raise ConfigError("data.encoded: an encoder with adapters changes, so what it gives cannot be kept: leave its stream out.")
        self._check_stages(state, {model.part(stream) for stream in self.data.encoded})
        given = jax.tree.map(jnp.copy, ({"params": state.params["model"], **state.stats}, state.fitted))  # a step takes the state's memory
        fn = jax.jit(self._encode, static_argnames="stream", out_shardings=NamedSharding(self.mesh, PartitionSpec()))

        whole = jax.jit(lambda x: x, out_shardings=NamedSharding(self.mesh, PartitionSpec()))

        def made_of(stream: str) -> str:
            variables, fitted = given
            name, batch_pp = model.part(stream), self.config["data"].get("batch_pp") or {}
            own = {kind: tree[name] for kind, tree in variables.items() if name in tree} | {"fitted": fitted.get(stream, {})}
            told = [self.config["model"]["encoders"][name], batch_pp.get(stream)]
            found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
            for path, leaf in sorted(paths(own).items()):
                found.update(path.encode() + np.asarray(jax.device_get(whole(leaf))).tobytes())
            return found.hexdigest()

        self.data.encode(lambda stream, batch: fn(*given, batch, stream=stream), made_of)

    def _check_stages(self, state: State, encoders: set[str]) -> None:
        """Whether the model is the same on encodings, which have no lower stages, as on what they are made of."""
        batch = jax.eval_shape(self.data.batch_pp, self.training_shapes(state), state.fitted)
        found = jax.eval_shape(self.model.init, state.key, batch)["params"]
        have, wanted = (
            {p: x.shape for p, x in paths(tree).items() if p.split("/")[0] not in encoders} for tree in (state.params["model"], found)
        )
        if differ := configs.differences(have, wanted):
            raise ConfigError(
                f"data.encoded keeps no lower stages of an encoder, and the model is another one without them ({next(iter(differ))}): "
                "leave data.encoded out, or take a fusion that reads the last layer alone."
            )

    def init(self, shapes: State, batch: Mapping[str, jax.Array]) -> State:
        """The state before the first step, made where it will lie."""
        init = jax.jit(self._init, out_shardings=jax.tree.map(lambda s: s.sharding, shapes))
        return init(batch, self.data.fitted(self.mesh))

    def _init(self, batch: Any, fitted: Any) -> State:
        key = jax.random.key(self.config["seed"])
        return init_state(key, batch, self.model, self.objectives, self.optimizer, self.data.batch_pp, fitted)


def _top(
    *,
    steps,
    data,
    model,
    objectives,
    optimizer,
    seed=0,
    adapt=None,
    init_from=None,
    linear_map=None,
    mesh=None,
    evals=None,
    checkpoint=None,
    log=None,
) -> None:
    """The keys of a run's config."""


def _constant(value: float, step: Any) -> jax.Array:
    return jnp.float32(value)


EVAL_KEYS = ("every", "split", "final", "data")


def parts_of(config: Any, workdir: Path | None = None, data: Data | None = None, devices: Sequence[Any] | None = None) -> Parts:
    """The parts that a config describes; `data`, where what it says of them was built before.

    Its mesh is of all devices, or of some `devices`.

    Raises:
        ConfigError: a name that does not resolve, an unknown or missing key (with the nearest known one), values that
            do not go together. No data has been read by then.
    """
    config = configs.plain(config)
    check_call(_top, config, "config")
    config = {"seed": 0, "init_from": {}, "mesh": {}, "evals": {}, "checkpoint": {}, "log": {}, **config}
    for key in ("data", "model", "objectives", "optimizer", "mesh", "evals", "checkpoint", "log"):
        if not isinstance(config[key], Mapping):
            raise ConfigError(f"config.{key} should be a mapping, not {config[key]!r}.")
    steps = config["steps"]
    if not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"config.steps={steps!r} should be a whole number of at least 1.")

    check_init_from(config["init_from"], workdir)
    check_call(Data, config["data"], "data", provided=("seed", "workdir", "path"))
    data = data or Data(**config["data"], seed=config["seed"], workdir=workdir)
    mesh = make_mesh(**check_call(make_mesh, config["mesh"], "mesh", provided=("devices",)), devices=devices)
    model = build("models", config["model"], "model")
    if config.get("adapt"):
        if not isinstance(model, ModuleModel):
            raise ConfigError("adapt puts adapters at the modules of flax, which this model has none of.")
        model = model.adapted(Adapters(config["adapt"]))
    objectives = _objectives(config["objectives"], steps)
    if not objectives or "model" in objectives:
        raise ConfigError("config.objectives should name at least one objective, and none 'model'.")
    check_call(Optimizer, config["optimizer"], "optimizer", provided=("steps",))
    optimizer = Optimizer(**config["optimizer"], steps=steps)
    make_step(model, objectives, optimizer)
    check_batch_size(mesh, data.batch_size, max(optimizer.accumulate, optimizer.cache))
    if linear_map := config.get("linear_map"):
        linear_map = LinearMap(**check_call(LinearMap, linear_map, "linear_map"))
    evals = _evals(config["evals"], data)
    check_call(Checkpoints, config["checkpoint"], "checkpoint", provided=("directory", "read_only"))
    every = config["checkpoint"].get("every", 1)
    if every < 1:
        raise ConfigError(f"checkpoint.every={every} should be at least 1.")
    best, measured = config["checkpoint"].get("best"), [f"{when['split']}/{name}/" for name, (_, when) in evals.items()]
    if best and not best.startswith(tuple(measured)):
        begin = " or ".join(measured) or "..."
        raise ConfigError(f"checkpoint.best={best!r} is measured by none of config.evals: it should begin with {begin}.")
    check_call(RunLog, config["log"], "log", provided=("folder", "steps", "batch_size", "start", "before"))
    profile = config["log"].get("profile")
    if profile and not (len(profile) == 2 and 0 < profile[0] < profile[1]):
        raise ConfigError(f"log.profile={profile!r} should be the first and the last step to trace, as in (100, 110).")
    if config["log"].get("wandb") and importlib.util.find_spec("wandb") is None:
        raise ConfigError("log.wandb needs the package wandb: pip install wandb")
    return Parts(config, data, mesh, model, objectives, optimizer, evals, linear_map or None)


def _objectives(nodes: Mapping[str, Any], steps: int) -> dict[str, Weighted]:
    """`weight` is a number, or a schedule over the run: dict(name="linear", peak=0.5, warmup=100)."""
    objectives = {}
    for name, node in nodes.items():
        path = f"objectives.{name}"
        objective = build("objectives", node, path, common=("weight",))
        weight = node.get("weight", 1.0)
        if isinstance(weight, Mapping):
            arguments = check_call(make_schedule, {"peak": 1.0, "steps": steps, **weight}, f"{path}.weight")
            schedule = make_schedule(weight.get("name", "constant"), **arguments)
        else:
            schedule = partial(_constant, float(weight))
        objectives[name] = Weighted(objective, schedule)
    return objectives


def _evals(nodes: Mapping[str, Any], data: Data) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Each evaluator, when it runs (`every` steps and at the last), on which `split` then, and on which at the end (`final`).

    `data` is the run's, or with `data=dict(source=..., pp=...)` in the evaluator's config other data for the same model.
    """
    evals = {}
    for name, node in nodes.items():
        evaluator = build("evals", node, f"evals.{name}", common=EVAL_KEYS)
        when = {"every": None, "split": "validation", "final": "test", **{key: node[key] for key in EVAL_KEYS if key in node}}
        if (other := when.get("data")) is not None and not isinstance(other, Mapping):
            raise ConfigError(f"evals.{name}.data={other!r} should be a mapping, as in dict(source=dict(name=...)).")
        path = f"evals.{name}.data"
        when["data"] = data if other is None else data.elsewhere(path, **check_call(data.elsewhere, other, path, provided=("path",)))
        if when["every"] is not None and when["every"] < 1:
            raise ConfigError(f"evals.{name}.every={when['every']} should be at least 1, or None.")
        evals[name] = (evaluator, when)
    return evals
