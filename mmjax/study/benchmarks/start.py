"""How long a run takes to start: every start is a process of its own, first with no compiled programs and then with its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmjax.config import UserError
from mmjax.study.benchmarks.timing import spread
from mmjax.study.document import table

PHASES = ("imports", "config and data", "shapes", "first batch", "parameters", "tracing the step", "compiling the step", "first step")


def tables(command: Sequence[str], name: str, repeats: int) -> dict[str, str]:
    """{"start": the table}; `command`, with a folder behind it, is what starts a run and prints `one`."""
    seconds: dict[str, list[dict[str, float]]] = {"cold": [], "compiled before": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats):
            for kind, runs in seconds.items():
                environment = {**os.environ, "MMJAX_CACHE": f"{folder}/cache_{turn}", "MMJAX_BEGIN": str(time.time())}
                line = [sys.executable, *command, f"{folder}/{turn}_{kind[:4]}"]
                done = subprocess.run(line, env=environment, capture_output=True, text=True)
                if done.returncode:
                    raise UserError(done.stderr)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
    lines = [[phase, *(spread([run[phase] for run in runs], 2) for runs in seconds.values())] for phase in PHASES]
    lines.append(["**all**", *(spread([sum(run.values()) for run in runs], 2) for runs in seconds.values())])
    return {"start": table([f"seconds, {name}", *seconds], lines)}


def one(config: Any, workdir: Path) -> dict[str, float]:
    """The seconds of each phase, doing what the loop does up to the end of the first step."""
    marks = [float(os.environ["MMJAX_BEGIN"])]

    def mark() -> None:
        marks.append(time.time())

    import grain  # noqa: F401
    import jax

    from mmjax.train import checkpoint, evaluation, logging, loop  # noqa: F401 - what a run imports
    from mmjax.train.build import parts_of

    mark()
    workdir.mkdir(parents=True)
    parts = parts_of(config, workdir)
    parts.batch_shapes()  # opens the source, trains the tokenizer
    mark()
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        mark()
        batch = next(parts.data.train_batches(parts.mesh))
        mark()
        state = jax.block_until_ready(parts.init(shapes, batch))
        mark()
        lowered = parts.step(shapes).lower(state, batch)
        mark()
        step = lowered.compile()
        mark()
        jax.block_until_ready(step(state, batch))
        mark()
    return {phase: end - begin for phase, begin, end in zip(PHASES, marks, marks[1:], strict=False)}
