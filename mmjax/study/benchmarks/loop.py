"""What the loop costs beside its step: a run of ours against the same step and batches in a loop written by hand."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from mmjax.config import changed
from mmjax.study.benchmarks.timing import spread, told
from mmjax.study.document import table
from mmjax.train.build import parts_of
from mmjax.train.evaluation import evaluate
from mmjax.train.loop import train

CONFIGS = ("fuse_watch", "align_openmoji")
EVERY = 10  # steps between two lines of metrics


def tables(load: Callable[[str], Any], config: str | None, steps: int, repeats: int) -> dict[str, str]:
    """{"loop": the table}, of runs of so many steps, by default of CONFIGS."""
    rows = [_of(name, load(name), steps, repeats) for name in ([config] if config else CONFIGS)]
    head = ["run", "examples/s, our loop", "by hand", "our overhead, %", "evaluation in the run, s", "alone, s"]
    return {"loop": table(head, rows)}


def _of(name: str, config: Any, steps: int, repeats: int) -> list[str]:
    bare = changed(config, {"steps": steps, "evals": {}, "checkpoint": {"every": steps}, "log": {"every": EVERY}})
    ours, by_hand = [], []
    for _ in range(repeats):
        by_hand.append(written_by_hand(bare))
        with tempfile.TemporaryDirectory() as folder:
            ours.append(of_run(bare, Path(folder)))
    overhead = spread([(b / a - 1) * 100 for a, b in zip(ours, by_hand, strict=True)], 1)
    return told([name, spread(ours), spread(by_hand), overhead, *(spread(times, 2) for times in evaluations(config, repeats))])


def of_run(config: Any, workdir: Path) -> float:
    """Examples/s of a run, without its first step."""
    train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    seconds, done = 0.0, 0
    for line in lines:
        if "train/examples_per_s" in line:
            examples = (line["step"] - max(1, line["step"] - EVERY)) * config["data"]["batch_size"]
            seconds, done = seconds + examples / line["train/examples_per_s"], done + examples
    return done / seconds


def written_by_hand(config: Any) -> float:
    """The same step on the same batches, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        parts = parts_of(config, Path(folder))
        parts.open_data()
        with jax.set_mesh(parts.mesh):
            parts.data.open_tokenizer()
            shapes = parts.state_shapes()
            batches = parts.data.train_batches(parts.mesh)
            state, step = parts.init(shapes, next(parts.data.train_batches(parts.mesh))), parts.step(shapes)
            state, metrics = step(state, next(batches))
            jax.block_until_ready(metrics)
            begin = time.perf_counter()
            for _ in range(config["steps"] - 1):
                state, metrics = step(state, next(batches))
            jax.block_until_ready(metrics)
            return (config["steps"] - 1) * config["data"]["batch_size"] / (time.perf_counter() - begin)


def evaluations(config: Any, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds that evaluations hold up a run, without the first, which compiles; and what they take where nothing else runs."""
    every = 2
    evals = {key: {**node, "every": every} for key, node in config["evals"].items()}
    steps = every * (repeats + 1)
    whole = {"steps": steps, "evals": evals, "checkpoint": {"every": steps}, "log": {"every": 1}}
    config = changed(config, whole, {"optimizer.warmup": 1})
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder))
        held = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    held = [line["time/evaluation_s"] for line in held if "time/evaluation_s" in line][1:]
    with tempfile.TemporaryDirectory() as folder:
        parts = parts_of(config, Path(folder))
        parts.open_data()
        with jax.set_mesh(parts.mesh):
            parts.data.open_tokenizer()
            shapes, fns, alone = parts.state_shapes(), parts.functions(), []
            state = parts.init(shapes, next(parts.data.train_batches(parts.mesh)))
            splits = {name: when["split"] for name, (_, when) in parts.evals.items() if when["split"]}
            for _ in range(repeats + 1):
                begin = time.perf_counter()
                evaluate(parts, fns, state, step=0, splits=splits, details=False)
                alone.append(time.perf_counter() - begin)
    return held, alone[1:]
