"""Runs the config's evaluators: some steps of training on validation data, and all of a finished run on test data."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from mmjax.config import CheckpointError, DataError, UserError
from mmjax.contract import Artifact, State, Table, save_artifact, write_atomic
from mmjax.data.loader import Data
from mmjax.data.split import SplitView
from mmjax.ops.processes import gathered
from mmjax.train.build import Parts, parts_of
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.distributed import agree_on_data, agree_to_begin
from mmjax.train.optim import count
from mmjax.train.run import read_config
from mmjax.train.step import Functions

Found = tuple[dict[str, float], dict[str, Artifact]]


def check_evaluators(parts: Parts) -> None:
    """Lets evaluators that can look at the splits that they will be given: what is misspelt shows before training.

    Raises:
        ConfigError, DataError: a split has not what the evaluator needs.
    """
    for name, (evaluator, when) in parts.evals.items():
        for split in dict.fromkeys(filter(None, (when["split"], when["final"]))):
            try:
                if hasattr(evaluator, "check"):
                    evaluator.check(SplitView(when["data"], parts.mesh, split))
            except UserError as error:
                raise type(error)(f"evals.{name}: {error}") from error


def evaluate(parts: Parts, fns: Functions, state: State, *, step: int, splits: Mapping[str, str], details: bool) -> Found:
    """Numbers and artifacts by name, `<split>/<evaluator>/<name>`; `splits` says which evaluator runs on which split."""
    numbers: dict[str, float] = {}
    artifacts: dict[str, Artifact] = {}
    fns = fns._replace(kept={})  # of this state: several evaluators need the same predictions
    for name, split in splits.items():
        evaluator, when = parts.evals[name]
        view = SplitView(when["data"], parts.mesh, split)
        for key, value in evaluator.run(fns, state, view, step=step, details=details):
            (artifacts if isinstance(value, Artifact) else numbers)[f"{split}/{name}/{key}"] = value
    return numbers, artifacts


def final_evaluation(parts: Parts, fns: Functions, state: State, workdir: Path, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Evaluates on validation and test data with baselines and pictures, and writes `results.json` and the artifacts."""
    begin, step = time.perf_counter(), int(state.step)
    results: dict[str, Any] = {"step": step}
    artifacts: dict[str, Artifact] = dict(_described(parts))
    for which in ("split", "final"):
        splits = {name: when[which] for name, (_, when) in parts.evals.items() if when[which]}
        numbers, found = evaluate(parts, fns, state, step=step, splits=splits, details=True)
        results |= numbers
        artifacts |= found
    results |= {f"{place}/unreadable": count for place, count in unreadable(parts).items()}
    results |= {
        "parameters": count(state.params["model"]),
        "parameters_trained": count(parts.optimizer.split(state.params)[0].get("model", {})),
    }
    results |= {"time/evaluation_s": time.perf_counter() - begin, **(extra or {})}
    if jax.process_index() == 0:
        for name, artifact in artifacts.items():
            save_artifact(workdir / "artifacts" / f"{name}.json", artifact)
        write_atomic(workdir / "results.json", json.dumps(results, indent=2))
    return results


def _read(parts: Parts) -> Iterator[tuple[str, Data, str]]:
    """The run's data and the other data of its evaluators: the place of what is told about them, and a split that was read."""
    yield "data", parts.data, "train"
    for name, (_, when) in parts.evals.items():
        if when["data"] is not parts.data and (split := when["final"] or when["split"]):
            yield f"data/{name}", when["data"], split


def unreadable(parts: Parts) -> dict[str, int]:
    """How many items of each split, "data/train", could not be read so far; of several processes each has read its own rows.

    Raises:
        DataError: together they are too many, though no process has met as many.
    """
    every = gathered("unreadable", {prefix: data.unreadable_items for prefix, data, _ in _read(parts)})
    found = {}
    for prefix, data, _ in _read(parts):
        for split in every[0][prefix]:
            items = {item for one in every for item in one[prefix].get(split, ())}
            found[f"{prefix}/{split}"] = len(items)
            if len(every) > 1 and len(items) > max(1, data.max_unreadable * len(data.source(split))):
                raise DataError(
                    f"{len(items)} items of the {split} split are unreadable, more than data.max_unreadable={data.max_unreadable:g} of "
                    f"its {len(data.source(split))}. The log of each process names those that it read."
                )
    return found


def _described(parts: Parts) -> Iterator[tuple[str, Artifact]]:
    """What the sources say of themselves, each once; a text becomes a table of one cell."""
    told: list[Any] = []
    for prefix, data, split in _read(parts):
        if data.source_config in told:
            continue
        told.append(data.source_config)
        for name, value in data.source(split).describe().items():
            place = f"data/{name}" if data is parts.data else f"{prefix}_{name}"
            yield place, value if isinstance(value, Artifact) else Table([name], [[value]])


def evaluate_run(workdir: str | Path, step: int | None = None) -> dict[str, Any]:
    """Evaluates a checkpoint of a run: the one at `step`, or the best (the newest where no metric was kept)."""
    workdir = Path(workdir)
    agree_to_begin(read_config(workdir))
    parts = parts_of(read_config(workdir), workdir)
    config = parts.config
    parts.open_data()
    agree_on_data(parts.fingerprints())
    with jax.set_mesh(parts.mesh), closing(Checkpoints(workdir / "checkpoints", **config["checkpoint"], read_only=True)) as checkpoints:
        step = checkpoints.best_step if step is None else step
        if step is None:
            raise CheckpointError(f"{workdir} has no checkpoint yet.")
        state = checkpoints.restore(step, parts.state_shapes())
        kept = {k: v for k, v in _stored_results(workdir).items() if k.startswith("time/") and k != "time/evaluation_s"}
        return final_evaluation(parts, parts.functions(), state, workdir, kept)


def _stored_results(workdir: Path) -> dict[str, Any]:
    path = workdir / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}
