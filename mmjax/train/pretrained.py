"""Parts of a new run's model from finished runs, or from public weights: `init_from` in a config.

    init_from=dict(image="runs/clip_vit_b16")                  the run's best checkpoint, averaged where an average was kept;
                                                               LoRA's and DoRA's adapters are merged into it
    init_from=dict(image=dict(name="efficientnet_lite"))       a family of `mmjax/weights/`

A part is what the model calls it: an encoder by its stream (`image`), or its projection (`image_projection`). Freezing
it is up to `optimizer.rules`. An objective with a teacher is named likewise, for all parts of the teacher's model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.config import CheckpointError, ConfigError, build, check_part, nearest
from mmjax.contract import State
from mmjax.data.tokenizers import Tokenizer
from mmjax.nn.adapters import NAME as ADAPTERS
from mmjax.nn.adapters import Adapters
from mmjax.ops import processes
from mmjax.train.checkpoint import Checkpoints, mismatches, refuse
from mmjax.train.optim import paths
from mmjax.train.run import read_config
from mmjax.weights._files import Checkpoint

if TYPE_CHECKING:
    from mmjax.train.build import Parts


def check_init_from(sources: Any, workdir: Path | None) -> None:
    """A new run needs what it is to start from; one that has begun does not, and it may be gone by now."""
    if not isinstance(sources, Mapping) or not all(isinstance(source, str | Mapping) for source in sources.values()):
        raise ConfigError(f"init_from={sources!r} should say which part of the model is of which run: dict(image='runs/pretrained').")
    begun = workdir is None or any((workdir / "checkpoints").glob("step_*"))
    for part, source in sources.items():
        path = f"init_from.{part}"
        if isinstance(source, Mapping):
            check_part("weights", source, path) if begun else build("weights", source, path)
        elif not begun and not (Path(source) / "config.json").exists():
            raise ConfigError(f"{path}: {source} holds no run: there is no {Path(source) / 'config.json'}.")
        elif not begun and not any((Path(source) / "checkpoints").glob("step_*")):
            raise ConfigError(f"{path}: {source} has no checkpoint yet.")


def load_parts(parts: Parts, shapes: State) -> dict[str, Any]:
    """{"params": {part: arrays}, "stats": {collection: {part: arrays}}} of all that the config's `init_from` names.

    And "fitted" {stream: arrays}: an encoder goes on seeing its input as `data.batch_pp` of its run was fitted.

    Raises:
        ConfigError: the model has no such part, or its ids are of another tokenizer.
        CheckpointError: what is loaded is of another architecture; the arrays are named.
    """
    sources, model = parts.config["init_from"], shapes.params["model"]
    teachers = [name for name, (objective, _) in parts.objectives.items() if hasattr(objective, "teacher")]
    for name in teachers:
        if name not in sources:
            raise ConfigError(f"objectives.{name}: a teacher that was never taught. init_from.{name}=... says whose weights it has.")
    found: dict[str, Any] = {"params": {}, "stats": {}, "fitted": {}, "aux": {}}
    families: dict[str, Any] = {}  # a checkpoint is read once by all its parts
    for name, source in sources.items():
        if not isinstance(source, str):
            told = json.dumps(source, sort_keys=True)
            source = families[told] = families.get(told) or build("weights", source, f"init_from.{name}")
        if name in teachers:
            node = parts.config["objectives"][name]["model"]
            found["aux"][name], fitted = _loaded(parts, source, f"init_from.{name}", node, shapes.aux[name], shapes)
            found["fitted"] = fitted | found["fitted"]
        elif name in model:
            wanted = {"params": {name: model[name]}, **{kind: {name: tree[name]} for kind, tree in shapes.stats.items() if name in tree}}
            own, fitted = _loaded(parts, source, f"init_from.{name}", parts.config["model"], wanted, shapes)
            found["params"] |= own.pop("params")
            found["fitted"] |= fitted
            for kind, tree in own.items():
                found["stats"].setdefault(kind, {}).update(tree)
        else:
            raise ConfigError(f"init_from.{name}: the model has no such part.{nearest(name, [*model, *teachers])}")
    return found


def _loaded(
    parts: Parts, source: Any, path: str, node: Mapping[str, Any], wanted: Mapping[str, Any], shapes: State
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables of some parts of a model, {"params": {part: arrays}, ...}, and what a run's streams were fitted with."""
    found: dict[str, Any] = {kind: {} for kind in wanted}
    fitted: dict[str, Any] = {}
    for part, params in wanted["params"].items():
        stats = {kind: tree[part] for kind, tree in wanted.items() if kind != "params" and part in tree}
        if isinstance(source, str):
            _check_tokenizer(parts, node, part, Path(source), path)
            params, stats, fitted[part] = _from_run(Path(source), part, params, stats, shapes.fitted.get(part, {}))
        else:
            params, stats = from_weights(source, part, path, params, stats, node.get("encoders", {}).get(part))
        found["params"][part] = params
        for kind, tree in stats.items():
            found[kind][part] = tree
    return found, fitted


def _from_run(run: Path, part: str, params: Any, stats: Mapping[str, Any], fitted: Any) -> tuple[Any, dict[str, Any], Any]:
    config = read_config(run)
    with closing(Checkpoints(run / "checkpoints", **config["checkpoint"], read_only=True)) as checkpoints:
        step = checkpoints.best_step
        assert step is not None, "checked by check_init_from"

        def restored(item: str, wanted: Any) -> Any:
            return checkpoints.restore_some(step, item, wanted) if jax.tree.leaves(wanted) else wanted

        item, begin = "ema" if "ema" in checkpoints.items(step) else "params", f"model/{ADAPTERS}/{part}/"
        place = jax.tree.leaves(params)[0].sharding.mesh
        own = {
            name.removeprefix("model/"): jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(place, PartitionSpec()))
            for name, shape in (checkpoints.stored(step, item) if config.get("adapt") else {}).items()
            if name.startswith(begin)
        }
        found = restored(item, {"model": {part: params, **unflatten_dict(own, sep="/")}})["model"]
        params = Adapters(config["adapt"]).merged(found)[part] if own else found[part]
        found = restored("stats", {name: {part: tree} for name, tree in stats.items()})
        return params, {name: tree[part] for name, tree in found.items()}, restored("fitted", {part: fitted})[part]


def from_weights(
    family: Any, part: str, path: str, params: Any, stats: Mapping[str, Any], encoder: Any = None
) -> tuple[Any, dict[str, Any]]:
    """A part's parameters and statistics of a family of `mmjax/weights/`, laid out as the shapes of both say.

    Raises:
        CheckpointError: they are of another architecture than `encoder`, its config, or than the shapes.
    """
    weights = family.load(part, {k: leaf.shape for k, leaf in paths(params).items()})
    if isinstance(encoder, Mapping):
        _check_sizes(family, weights["params"], part, path, encoder)
    placed, problems = {}, []
    for name, tree in {"params": params, **stats}.items():
        found, wanted = weights.get(name, {}), paths(tree)
        problems += mismatches(name, {k: x.shape for k, x in found.items()}, {k: leaf.shape for k, leaf in wanted.items()})
        arrays = {k: processes.placed(found[k].astype(leaf.dtype), leaf.sharding) for k, leaf in wanted.items() if not problems}
        placed[name] = unflatten_dict(arrays, sep="/")
    refuse(problems, f"{path}: the weights are of another architecture")
    return placed.pop("params"), placed


def _check_sizes(family: Any, found: Mapping[str, Any], part: str, path: str, encoder: Mapping[str, Any]) -> None:
    """What another shape would not show, or not say plainly: heads, and how many ids are embedded."""
    heads, had = getattr(build("encoders", encoder, part), "heads", None), family.heads(part) if isinstance(family, Checkpoint) else None
    if heads is not None and had not in (None, heads):
        raise CheckpointError(f"{path}: the weights have {had} heads, the encoder {heads}. Set model.encoders.{part}.heads={had}.")
    table, vocab = found.get("embedding/embedding"), encoder.get("vocab")
    if table is not None and vocab not in (None, len(table)):
        raise CheckpointError(
            f"{path}: the weights embed {len(table)} ids, and model.encoders.{part}.vocab={vocab}. Set it to {len(table)}, and take "
            "the weights' tokenizer: data.tokenizer=dict(name='file', path=...)."
        )


def with_parts(state: State, found: Mapping[str, Any]) -> State:
    """The state with what `load_parts` found in the place of its own."""
    stats = {name: {**tree, **found["stats"].get(name, {})} for name, tree in state.stats.items()}
    params = {**state.params, "model": {**state.params["model"], **found["params"]}}
    ema = state.ema
    if ema:
        ema = {**ema, "model": {**ema["model"], **jax.tree.map(jnp.copy, found["params"])}}
    fitted = {stream: found["fitted"].get(stream, tree) for stream, tree in state.fitted.items()}
    return state._replace(params=params, stats=stats, ema=ema, fitted=fitted, aux={**state.aux, **found["aux"]})


def _check_tokenizer(parts: Parts, model: Mapping[str, Any], part: str, run: Path, path: str) -> None:
    """An embedding's rows are a tokenizer's ids, and mean nothing under another."""
    encoder = model.get("encoders", {}).get(part)
    if not isinstance(encoder, Mapping) or "vocab" not in encoder:
        return
    if Tokenizer.load(run / "tokenizer.json").fingerprint != parts.data.tokenizer.fingerprint:
        raise ConfigError(f"{path}: the tokens of {run} are others than this run's, so its embeddings do not fit. Leave {part!r} out.")
