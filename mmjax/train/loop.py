"""The training loop: there is one, and it reads top to bottom."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax

from mmjax.config import CheckpointError, UserError
from mmjax.train.build import Parts, parts_of
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.distributed import agree_on_data, agree_to_begin
from mmjax.train.evaluation import check_evaluators, evaluate, final_evaluation, unreadable
from mmjax.train.logging import RunLog
from mmjax.train.optim import count
from mmjax.train.pretrained import load_parts, with_parts
from mmjax.train.run import RunFolder
from mmjax.train.speed import step_flops


class Interrupted(UserError):
    """The run was asked to end; everything is saved."""


def train(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Trains one run to its last step, from wherever `workdir` stands, and evaluates its best checkpoint.

    Returns the results, which `results.json` holds too.

    Raises:
        ConfigError, DataError: something to put right, said before the first step where that is possible.
        CheckpointError: a checkpoint could not be written or does not fit; the last good one is untouched.
        TrainingError: the loss is not finite; the last good checkpoint is untouched.
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
        ProcessError: several processes, which all call this, differ in what they would do.
    """
    workdir = Path(workdir)
    agree_to_begin(config)
    parts = parts_of(config, workdir)
    config = parts.config
    parts.open_data()
    agree_on_data(parts.fingerprints())
    with (
        closing(RunFolder(workdir, config)),
        jax.set_mesh(parts.mesh),
        closing(Checkpoints(workdir / "checkpoints", **config["checkpoint"])) as checkpoints,
    ):
        parts.data.open_tokenizer()
        shapes = parts.state_shapes()
        check_evaluators(parts)
        step_fn, fns = parts.step(shapes), parts.functions()
        state, start, meta = restore_or_init(parts, checkpoints, shapes)
        parts.encode(state)
        if parts.linear_map and not start:
            state = parts.linear_map.mapped(parts, fns, state)
        batches = parts.data.train_batches(parts.mesh, start)
        with (
            closing(RunLog(workdir, config["steps"], parts.data.batch_size, start, meta, **config["log"])) as log,
            interruptions() as interrupted,
        ):
            log.say(_summary(parts, shapes, start))
            for step in range(start + 1, config["steps"] + 1):
                batch = log.next_batch(batches)
                state, metrics = step_fn(state, batch)
                log.step(step, metrics)
                if step == start + 1:
                    log.step_flops = step_flops(step_fn, state, batch)
                measured = None
                if due := _due_evals(parts, step):
                    log.flush()
                    measured = measure(parts, fns, state, step, due, log)
                stop = interrupted(step)
                if stop or _due(step, checkpoints.every, config["steps"]):
                    log.flush()  # a step whose loss is not finite is never saved
                    checkpoints.save(state, {"data": parts.data.fingerprint, **log.timings()}, measured)
                    unreadable(parts)  # in time also where each process has read but its share
                if stop:
                    checkpoints.wait()
                    raise Interrupted(f"Stopped by {stop} after step {step}, which is saved. The same command goes on from there.")
            log.flush()
            checkpoints.wait()
            best = checkpoints.best_step
            if best is not None and best != int(state.step):
                state = checkpoints.restore(best, shapes)
            return final_evaluation(parts, fns, state, workdir, log.timings())


def restore_or_init(parts: Parts, checkpoints: Checkpoints, shapes: Any) -> tuple[Any, int, dict[str, Any]]:
    """The newest checkpoint's state, or a new one, with what `init_from` names; the step it stands at; and what was noted with it."""
    latest = checkpoints.shared(checkpoints.latest)
    if latest is None:
        pretrained = load_parts(parts, shapes)
        state = parts.init(shapes, next(parts.data.train_batches(parts.mesh)))
        return with_parts(state, pretrained), 0, {}
    meta = checkpoints.meta(latest)
    if meta["data"] != parts.data.fingerprint:
        raise CheckpointError(
            f"The data is not what the run in {checkpoints.directory.parent} began with: it was {meta['data']!r} "
            f"and is {parts.data.fingerprint!r}. Take another --workdir, or put the data back."
        )
    return checkpoints.restore(latest, shapes), latest, meta


def measure(parts: Parts, fns: Any, state: Any, step: int, due: dict[str, str], log: RunLog) -> dict[str, float]:
    """Evaluates in mid-training and logs what was found."""
    begin = time.perf_counter()
    numbers, _ = evaluate(parts, fns, state, step=step, splits=due, details=False)
    seconds = time.perf_counter() - begin
    log.write(step, {**numbers, "time/evaluation_s": seconds})
    log.pause(seconds)
    return numbers


@contextmanager
def interruptions() -> Iterator[Callable[[int], str | None]]:
    """What tells, after each step, by which signal the run is asked to end.

    Of a single process: SIGTERM and SIGINT, of which it does not die then; of a second Ctrl-C it does. Of several processes:
    SIGTERM at any of them, which JAX's preemption service tells all of them of, and the step that they all stop after.
    """
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        yield lambda step: "SIGTERM" if reached_preemption_sync_point(step) else None
        return
    asked: list[str] = []

    def note(number, frame):
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals are somebody else's business
        before = {}
    try:
        yield lambda step: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _due(step: int, every: int | None, last: int) -> bool:
    return step == last or (every is not None and step % every == 0)


def _due_evals(parts: Parts, step: int) -> dict[str, str]:
    """The evaluators to run after a step, and on which split."""
    last, evals = parts.config["steps"], parts.evals.items()
    return {name: when["split"] for name, (_, when) in evals if when["split"] and _due(step, when["every"], last)}


def _summary(parts: Parts, shapes: Any, start: int) -> str:
    sizes = {name: count(tree) for name, tree in shapes.params["model"].items()}
    total, trained = sum(sizes.values()), count(parts.optimizer.split(shapes.params)[0].get("model", {}))
    share = f", {trained:,} of them trained ({trained / total:.2%})" if trained < total else ""
    mesh = ", ".join(f"{axis} {size}" for axis, size in parts.mesh.shape.items())
    begun = {part: source if isinstance(source, str) else source["name"] for part, source in parts.config["init_from"].items()}
    begin = ", ".join(["from the start", *(f"{part} from {source}" for part, source in begun.items())])
    where = f"resuming at step {start:,}" if start else begin
    each = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    return f"{total:,} parameters ({each}){share}; {len(parts.data.source('train')):,} examples; mesh {mesh}; {where}."
