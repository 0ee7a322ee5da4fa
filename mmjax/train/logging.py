"""Metrics one step behind, so that the device never waits for the host: progress bar, JSON lines, TensorBoard, W&B."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import jax

from mmjax.config import ConfigError, UserError
from mmjax.train.speed import compiled_again, memory_in_use, peak_flops


class TrainingError(UserError):
    """Training cannot go on."""


class RunLog:
    """Writes what a run measures to its folder.

    Beside what a step gives (`train/loss`, ...) stand, over the steps since the line before and without the first step, which
    compiles, and evaluation: `train/examples_per_s`; `train/wait_share`, of the time waited for data; `train/tflops_per_s` of each
    device and `train/mfu`, its share of what the device does at the most (see `speed.py`), once `step_flops` is set; and
    `train/memory_gib`, the most that a device has held. A program that is compiled again after the first evaluation is told of.

    Args:
        folder, steps, batch_size, start, before: provided by the run; `start` is the step it goes on from, `before` the
            `timings` up to there, and whatever else a checkpoint notes.
        every: steps between two lines of training metrics.
        tensorboard: event files in `<workdir>/tensorboard`.
        wandb: a Weights & Biases project to log to as well.
        profile: (first step, last step) to trace for TensorBoard's profiler, into `<workdir>/profile`.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        batch_size: int,
        start: int = 0,
        before: Mapping[str, Any] | None = None,
        *,
        every: int = 10,
        tensorboard: bool = True,
        wandb: str | None = None,
        profile: Sequence[int] | None = None,
    ):
        if every < 1:
            raise ConfigError(f"log.every={every} should be at least 1.")
        self.folder, self.steps, self.batch_size, self.every, self.profile = Path(folder), steps, batch_size, every, profile
        self.writes = jax.process_index() == 0
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._begin = self._window_begin = time.perf_counter()
        self._start = self._window_step = start
        self._waited, self._total_waited, self._paused = 0.0, 0.0, 0.0
        self.step_flops, self._peak = 0.0, peak_flops()
        self._before = {"time/train_s": 0.0, "time/wait_s": 0.0, **{k: v for k, v in (before or {}).items() if k.startswith("time/")}}
        self._tracing = False
        self._jsonl = _opened(self.folder / "metrics.jsonl") if self.writes else None
        self._tensorboard = self._wandb = None
        if tensorboard and self.writes:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(self.folder / "tensorboard"), flush_secs=10)
        if wandb and self.writes:
            import wandb as library

            config = json.loads((self.folder / "config.json").read_text())
            self._wandb = library.init(project=wandb, dir=str(self.folder), config=config, name=self.folder.name)
        self._bar = _Progress(steps, start) if self.writes else None
        self._watching: ExitStack | None = None

    def next_batch(self, batches: Any) -> Any:
        """The next batch; the time spent waiting for it is counted."""
        begin = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - begin
        return batch

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes the metrics of a step that may still be running; reads those of the step before.

        Raises:
            TrainingError: the loss or gradient of the step before is not finite.
        """
        self.trace(step)
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Reads the last step's metrics, waiting for it."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"The loss is {loss}" if not math.isfinite(loss) else f"The gradient's norm is {norm}"
            raise TrainingError(
                f"{what} at step {step}, of which no checkpoint is written. "
                "Lower optimizer.lr, set optimizer.clip or look at the data of this step, and start in a new --workdir."
            )
        if self._bar:
            self._bar.update(step, loss, self.batch_size, self.step_flops, self._peak)
        if step == self._start + 1:
            self._next_window(step)  # that it took was for compilation
        if step == self.steps:
            self._stop_watching()  # what comes then is compiled for it
        if step % self.every == 0 or step == self.steps:
            self.write(step, {f"train/{name}": value for name, value in jax.device_get(dict(metrics)).items()} | self._speed(step))

    def _speed(self, step: int) -> dict[str, float]:
        steps = step - self._window_step
        if not steps:
            return {}
        seconds = max(time.perf_counter() - self._window_begin - self._paused, 1e-9)
        flops = steps * self.step_flops / seconds
        speed = {
            "train/examples_per_s": steps * self.batch_size / seconds,
            "train/wait_share": min(self._waited / seconds, 1.0),
            "train/tflops_per_s": flops / 1e12,
            "train/mfu": flops / self._peak,
            "train/memory_gib": memory_in_use() / 2**30,
        }
        self._next_window(step)
        return speed

    def _next_window(self, step: int) -> None:
        self._total_waited += self._waited
        self._window_begin, self._window_step, self._waited, self._paused = time.perf_counter(), step, 0.0, 0.0

    def pause(self, seconds: float) -> None:
        """Time that was not training's but an evaluation's. After the first, nothing that trains or evaluates should be compiled."""
        self._paused += seconds
        if self._watching is None:
            self._watching = ExitStack()
            self._watching.enter_context(compiled_again(self.say))

    def _stop_watching(self) -> None:
        if self._watching:
            self._watching.close()

    def timings(self) -> dict[str, float]:
        """Seconds that the run has taken, the parts before a resumption included, and those spent waiting for data."""
        waited = self._total_waited + self._waited
        return {
            "time/train_s": self._before["time/train_s"] + time.perf_counter() - self._begin,
            "time/wait_s": self._before["time/wait_s"] + waited,
        }

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Numbers to every place that keeps them."""
        if self._jsonl is None:
            return
        values = {name: float(value) for name, value in scalars.items()}
        line = {"step": step, "time": round(time.time(), 3), **{k: v if math.isfinite(v) else None for k, v in values.items()}}
        self._jsonl.write(json.dumps(line) + "\n")
        self._jsonl.flush()
        if self._tensorboard:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(values, step=step)

    def say(self, text: str) -> None:
        """A line to whoever watches."""
        if self._bar:
            self._bar.say(text)

    def trace(self, step: int) -> None:
        """Starts and stops the profiler where `profile` asks for it."""
        if self.profile and self.writes and step == self.profile[0]:
            jax.profiler.start_trace(str(self.folder / "profile"))
            self._tracing = True
        elif self.profile and step >= self.profile[1]:
            self._stop_trace()

    def _stop_trace(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            self.say(f"Profiler trace: {self.folder / 'profile'}")

    def close(self) -> None:
        """Flushes and closes all of them."""
        self._stop_trace()
        self._stop_watching()
        if self._bar:
            self._bar.close()
        for sink in (self._jsonl, self._tensorboard):
            if sink:
                sink.close()
        if self._wandb:
            self._wandb.finish()


def _opened(path: Path) -> IO[str]:
    """A file of lines to append to; a line that a kill cut short stays one of its own."""
    cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    file = open(path, "a")  # noqa: SIM115
    if cut:
        file.write("\n")
    return file


class _Progress:
    """A bar in a terminal; elsewhere a line now and then."""

    def __init__(self, steps: int, start: int, seconds_between_lines: float = 10.0):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.console = Console(file=sys.stderr)
        self.steps, self._between, self._last_line = steps, seconds_between_lines, 0.0
        self._begin, self._start = None, start
        self._bar = None
        if self.console.is_terminal:
            columns = [TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[shown]}")]
            columns += [TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()]
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task("train", total=steps, completed=start, shown="compiling")
            self._bar.start()

    def update(self, step: int, loss: float, batch_size: int, step_flops: float, peak: float) -> None:
        now = time.perf_counter()
        if self._begin is None:  # the first step compiles
            self._begin, self._start = now, step
        speed = (step - self._start) / max(now - self._begin, 1e-9)
        shown = f"loss {loss:.3f}, {speed * batch_size:,.0f} examples/s, {speed * step_flops / peak:.1%} of peak"
        if self._bar:
            self._bar.update(self._task, completed=step, shown=shown)
        elif now - self._last_line > self._between or step == self.steps:
            self._last_line = now
            left = (self.steps - step) * (now - self._begin) / max(step - self._start, 1)
            self.console.print(f"step {step:,} of {self.steps:,}: {shown}, {left:.0f} s left", highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
