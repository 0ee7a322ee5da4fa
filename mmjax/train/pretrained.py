"""Parts of a new run's model from finished runs: `init_from=dict(image="runs/clip_vit_b16")` in a config.

A part is what the model calls it: an encoder by its stream (`image`), or its projection (`image_projection`). It comes
from the run's best checkpoint, averaged where an average was kept. Freezing it is up to `optimizer.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.config import ConfigError, nearest
from mmjax.contract import State
from mmjax.data.tokenizers import Tokenizer
from mmjax.train.build import Parts
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.run import read_config


def load_parts(parts: Parts, shapes: State) -> dict[str, Any]:
    """{"params": {part: arrays}, "stats": {collection: {part: arrays}}} of all that the config's `init_from` names.

    Raises:
        ConfigError: the model has no such part, or its ids are of another tokenizer.
        CheckpointError: the run's part is of another architecture; the arrays are named.
    """
    found: dict[str, Any] = {"params": {}, "stats": {}}
    for part, run in parts.config.get("init_from", {}).items():
        path, model = f"init_from.{part}", shapes.params["model"]
        if part not in model:
            raise ConfigError(f"{path}: the model has no such part.{nearest(part, model)}")
        _check_tokenizer(parts, part, Path(run), path)
        with closing(Checkpoints(Path(run) / "checkpoints", **read_config(Path(run))["checkpoint"], read_only=True)) as checkpoints:
            step = checkpoints.best_step
            assert step is not None, "checked by parts_of"
            item = "ema" if "ema" in checkpoints.items(step) else "params"
            found["params"] |= checkpoints.restore_some(step, item, {"model": {part: model[part]}})["model"]
            stats = {name: {part: tree[part]} for name, tree in shapes.stats.items() if part in tree}
            if stats:
                for name, tree in checkpoints.restore_some(step, "stats", stats).items():
                    found["stats"].setdefault(name, {}).update(tree)
    return found


def with_parts(state: State, found: Mapping[str, Any]) -> State:
    """The state with what `load_parts` found in the place of its own."""
    stats = {name: {**tree, **found["stats"].get(name, {})} for name, tree in state.stats.items()}
    params = {**state.params, "model": {**state.params["model"], **found["params"]}}
    ema = state.ema
    if ema:
        ema = {**ema, "model": {**ema["model"], **jax.tree.map(jnp.copy, found["params"])}}
    return state._replace(params=params, stats=stats, ema=ema)


def _check_tokenizer(parts: Parts, part: str, run: Path, path: str) -> None:
    """An embedding's rows are a tokenizer's ids, and mean nothing under another."""
    encoder = parts.config["model"].get("encoders", {}).get(part)
    if not isinstance(encoder, Mapping) or "vocab" not in encoder:
        return
    if Tokenizer.load(run / "tokenizer.json").fingerprint != parts.data.tokenizer.fingerprint:
        raise ConfigError(f"{path}: the tokens of {run} are others than this run's, so its embeddings do not fit. Leave {part!r} out.")
