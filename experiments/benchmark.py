"""Measures how fast mmjax is, beside others in the same run.

    python experiments/benchmark.py train   [--models quickstart,B/32] [--batch_size N]
    python experiments/benchmark.py loss    [--sizes 1024,32768]
    python experiments/benchmark.py compile [--sizes 12,24,48]
    python experiments/benchmark.py loop    [--config_file configs/fuse_watch.py] [--steps 200]
    python experiments/benchmark.py input   [--part decode|read|wait]
    python experiments/benchmark.py start   [--config_file configs/align_openmoji.py]
    python experiments/benchmark.py all --out FOLDER [--minutes 9]

train: a training step beside PyTorch's (open_clip; for the quickstart a twin of its model), with the share of what a matrix
product does; loss: the contrastive loss dense, in chunks and as a ring beside open_clip's; compile: blocks one by one and scanned,
at several depths; loop: the training loop beside one written by hand, and what evaluation costs; input: decode: images/s on one
core from JPEG to a random crop of 224 pixels, beside torchvision and tf.data where they are installed; read: examples/s out of
array_record, WebDataset and a table of files; wait: the share of time for which training waits for data. start: seconds from the
command to the end of the first step, with and without compiled programs from before. all: each of them as its own process, with
what it printed in FOLDER, until the minutes are over; rows stand in COMMAND.log as soon as they are there.
Figures are the median of several turns and, in brackets, the smallest and largest. --document FILE puts them there.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import _cli
from absl import flags

F = flags.FLAGS
ROOT = Path(__file__).parents[1]
COMMANDS = ("train", "loss", "compile", "loop", "input", "start")
OURS = ("jax", "flax", "numpy", "grain", "array-record", "opencv-python-headless", "pillow")
PACKAGES = (*OURS, "torch", "open_clip_torch", "efficientnet-lite-pytorch", "torchvision", "tensorflow", "tensorflow-cpu")


def main(command: str) -> None:
    if F.one_start:
        from mmjax.study.benchmarks import start

        print(json.dumps(start.one(_load(F.config_file or "align_openmoji"), Path(F.one_start))))
    elif command == "all":
        _all()
    else:
        for name, text in _tables(command).items():
            _publish(name, text)


def _tables(command: str) -> dict[str, str]:
    sizes = [int(size) for size in F.sizes]
    if command == "train":
        from mmjax.config import ConfigError, nearest
        from mmjax.study.benchmarks import train

        if unknown := [model for model in F.models if model not in train.MODELS]:
            raise ConfigError(f"--models: {unknown[0]!r} is unknown.{nearest(unknown[0], train.MODELS)}")
        return train.tables(_load, F.models, F.batch_size, F.repeats, F.seconds)
    if command == "loss":
        from mmjax.study.benchmarks import loss

        return loss.tables(sizes, F.repeats, F.seconds)
    if command == "compile":
        from mmjax.study.benchmarks import compile as compilation

        return compilation.tables(_load, sizes)
    if command == "loop":
        from mmjax.study.benchmarks import loop

        return loop.tables(_load, F.config_file, F.steps, F.repeats)
    if command == "input":
        from mmjax.study.benchmarks import input as reading

        return reading.tables(_load, F.part, F.repeats, F.seconds)
    from mmjax.study.benchmarks import start

    file = F.config_file or "configs/align_openmoji.py"
    return start.tables([__file__, "start", "--config_file", file, "--one_start"], file, F.repeats)


def _publish(name: str, text: str) -> None:
    from mmjax.study.document import about, fill
    from mmjax.train.run import environment

    made = about([environment(PACKAGES)], PACKAGES)
    print(f"{made}\n{text}")
    if F.document:
        fill(F.document, f"{made}\n{text}", name)


def _all() -> None:
    """Each command in a process of its own, so that nothing holds the device's memory; what does not end in time is said."""
    _cli.required("out")
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}  # PyTorch is on the same device
    out, end = Path(F.out), time.monotonic() + 60 * F.minutes
    out.mkdir(parents=True, exist_ok=True)
    for command in COMMANDS:
        line = [sys.executable, __file__, command, f"--repeats={F.repeats}", f"--seconds={F.seconds}", f"--steps={F.steps}"]
        begin, left = time.monotonic(), end - time.monotonic()
        with open(out / f"{command}.md", "w") as text, open(out / f"{command}.log", "w") as log:
            try:
                status = subprocess.run(line, stdout=text, stderr=log, timeout=max(left, 1), env=environment).returncode
                told = f"{time.monotonic() - begin:.0f} s" if not status else f"failed, see {out / command}.log"
            except subprocess.TimeoutExpired:
                told = "not finished in time"
        print(f"{command}: {told}", flush=True)


def _load(file: str) -> dict:
    """The config of a file, FILE[:key=value,...], or of one in `configs/`."""
    import importlib.util

    from mmjax.config import plain

    path, _, argument = file.partition(":")
    path = ROOT / path if path.endswith(".py") else ROOT / "configs" / f"{path}.py"
    spec = importlib.util.spec_from_file_location("benchmarked", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return plain(module.get_config(argument))


if __name__ == "__main__":
    flags.DEFINE_list("models", [], "Of `train`: some of quickstart, B/32, B/16 and L/14; by default those that fit the device.")
    flags.DEFINE_integer("batch_size", None, "Of `train`.", lower_bound=2)
    flags.DEFINE_list("sizes", [], "Of `loss` the batches, of `compile` the depths.")
    flags.DEFINE_integer("steps", 200, "Of `loop`: how long a run is.", lower_bound=2)
    flags.DEFINE_enum("part", None, ["decode", "read", "wait"], "Of `input` only this; all three otherwise.")
    flags.DEFINE_string("config_file", None, "What `start` or `loop` runs: FILE or FILE:key=value,...")
    flags.DEFINE_string("document", None, "A Markdown file: the tables replace what stands between the marks of their names.")
    flags.DEFINE_integer("repeats", 5, "How many turns.", lower_bound=1)
    flags.DEFINE_float("seconds", 0.5, "How long a contestant works in each turn.", lower_bound=0.0)
    flags.DEFINE_string("out", None, "The folder of `all`.")
    flags.DEFINE_float("minutes", 9.0, "How long `all` may take.", lower_bound=0.1)
    flags.DEFINE_string("one_start", None, "What `start` calls itself with: the folder of a run.")
    _cli.run(main, commands=(*COMMANDS, "all"))
