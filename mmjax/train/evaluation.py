"""Runs the config's evaluators: some steps of training on validation data, and all of a finished run on test data."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from mmjax.config import CheckpointError
from mmjax.contract import Artifact, State, Table, save_artifact, write_atomic
from mmjax.data.loader import SplitView
from mmjax.train.build import Parts, parts_of
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.run import read_config
from mmjax.train.step import Functions

Found = tuple[dict[str, float], dict[str, Artifact]]


def evaluate(parts: Parts, fns: Functions, state: State, *, step: int, splits: Mapping[str, str], details: bool) -> Found:
    """Numbers and artifacts by name, `<split>/<evaluator>/<name>`; `splits` says which evaluator runs on which split."""
    numbers: dict[str, float] = {}
    artifacts: dict[str, Artifact] = {}
    for name, split in splits.items():
        view = SplitView(parts.data, parts.mesh, split)
        for key, value in parts.evals[name][0].run(fns, state, view, step=step, details=details):
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
    results |= {f"data/{split}/unreadable": count for split, count in parts.data.unreadable.items()}
    results |= {"time/evaluation_s": time.perf_counter() - begin, **(extra or {})}
    if jax.process_index() == 0:
        for name, artifact in artifacts.items():
            save_artifact(workdir / "artifacts" / f"{name}.json", artifact)
        write_atomic(workdir / "results.json", json.dumps(results, indent=2))
    return results


def _described(parts: Parts) -> Iterator[tuple[str, Artifact]]:
    """What the source says of itself; a text becomes a table of one cell."""
    for name, value in parts.data.source("train").describe().items():
        yield f"data/{name}", value if isinstance(value, Artifact) else Table([name], [[value]])


def evaluate_run(workdir: str | Path, step: int | None = None) -> dict[str, Any]:
    """Evaluates a checkpoint of a run: the one at `step`, or the best (the newest where no metric was kept)."""
    workdir = Path(workdir)
    parts = parts_of(read_config(workdir), workdir)
    config = parts.config
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
