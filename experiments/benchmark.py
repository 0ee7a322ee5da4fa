"""Measures how fast the input side is, and how long a run takes to start.

    python experiments/benchmark.py input [--part decode|read|wait] [--document docs/benchmarks/input.md]
    python experiments/benchmark.py start [--config_file configs/align_openmoji.py] [--document docs/benchmarks/start.md]

input: decode: images/s on one core from JPEG to a random crop of 224 pixels, beside torchvision and tf.data where they are
installed; read: examples/s out of array_record, WebDataset and a table of files; wait: the share of time for which training
waits for data. start: seconds from the command to the end of the first step, with and without compiled programs from before.
Figures are the median of several turns and, in brackets, the smallest and largest.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _cli
from absl import flags

F = flags.FLAGS
ROOT = Path(__file__).parents[1]
QUICKSTART = "configs/align_openmoji.py"
SOURCES, SCALES = (500, 1024), ((0.9, 1.0), (0.08, 1.0))
OURS = ("jax", "flax", "numpy", "grain", "array-record", "opencv-python-headless", "pillow")
PACKAGES = (*OURS, "torch", "torchvision", "tensorflow", "tensorflow-cpu")
PHASES = ("imports", "config and data", "shapes", "first batch", "parameters", "tracing the step", "compiling the step", "first step")


def main(command: str) -> None:
    if F.one_start:
        print(json.dumps(_one_start(Path(F.workdir))))
        return
    parts = {"start": {"start": _start}, "input": {"decode": _decode, "read": _read, "wait": _wait}}[command]
    for name, measure in parts.items():
        if not F.part or F.part == name or command == "start":
            _publish(name, measure())


def _publish(name: str, text: str) -> None:
    from mmjax.study.document import about, fill
    from mmjax.train.run import environment

    made = about([environment(PACKAGES)], PACKAGES)
    print(f"{made}\n{text}")
    if F.document:
        fill(F.document, f"{made}\n{text}", name)


def _decode() -> str:
    from mmjax.study.document import table
    from mmjax.study.input import decoding, spread

    rows, missing = decoding(224, SOURCES, SCALES, F.repeats, F.seconds)
    lines = []
    for row in rows:
        ratio = "" if row["pipeline"] == "ours" else spread(row["ratios"], 2)
        lines.append([row["pipeline"], f"{row['side']:,}", "{} to {}".format(*row["scale"]), spread(row["rates"]), ratio])
    head = ["pipeline, on one core", "source, pixels", "share of the area cropped", "images/s", "ours is times as fast"]
    return table(head, lines) + "".join(f"\n{m}\n" for m in missing)


def _read() -> str:
    from mmjax import config
    from mmjax.study.document import table
    from mmjax.study.input import photographs, reading, spread, write_pairs

    with tempfile.TemporaryDirectory() as folder:
        nodes = write_pairs(Path(folder) / "pairs", photographs(SOURCES[0]), 1_000)
        sources = {name: config.build("data.sources", node, "data.source", split="train") for name, node in nodes.items()}
        rates = reading(sources, F.repeats, F.seconds)
    return table(["from the page cache, one thread", "examples/s"], [[name, spread(values)] for name, values in rates.items()])


def _wait() -> str:
    from mmjax.study.document import table
    from mmjax.study.input import photographs, write_pairs

    lines = []
    with tempfile.TemporaryDirectory() as folder:
        nodes = write_pairs(Path(folder) / "pairs", photographs(SOURCES[0]), 500)
        for name, config in {
            f"quickstart ({QUICKSTART})": _without_evaluation(_load(QUICKSTART), 100),
            "photographs at 224 pixels, ViT S/32": _at_224(nodes["table of files"]),
        }.items():
            lines.append([name, *_waiting(config, Path(folder) / f"run_{len(lines)}")])
    return table(["run", "examples/s trained", "examples/s of the loader alone", "share of the time waited"], lines)


def _load(file: str) -> dict:
    import importlib.util

    from mmjax.config import plain

    path, _, argument = file.partition(":")
    spec = importlib.util.spec_from_file_location("benchmarked", ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return plain(module.get_config(argument))


def _without_evaluation(config: dict, steps: int) -> dict:
    return {**config, "steps": steps, "evals": {}, "checkpoint": {"every": steps}, "log": {"every": 2}}


def _at_224(source: dict) -> dict:
    """Training at the usual size. On a CPU the step is slow; a device waits for as long as the loader's examples/s say."""
    image = dict(name="vit", patch=32, width=384, depth=12, heads=6)
    text = dict(name="text_transformer", vocab=259, width=128, depth=1, heads=4)
    pp = dict(image="decode_random_resized_crop(224, (0.9, 1.0))|flip_lr", text="lower|tokens(16)")
    config = dict(
        seed=0,
        data=dict(source=source, pp=pp, batch_size=16, tokenizer=dict(name="byte")),
        model=dict(name="aligner", width=128, encoders=dict(image=image, text=text)),
        objectives=dict(contrastive=dict(name="contrastive", pairs=[("image", "text")])),
        optimizer=dict(name="adamw", lr=1e-3, warmup=1, rules=[(".*", dict(decay=0.1))]),
    )
    return _without_evaluation(config, 20)


def _waiting(config: dict, workdir: Path) -> list[str]:
    """Examples/s of a run after its first steps, those of its loader alone, and the share of the time that the run waited."""
    import jax

    from mmjax.study.input import in_turns, spread
    from mmjax.train.build import parts_of
    from mmjax.train.loop import train

    train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "train/wait_share" in line][1:]  # the first compiles
    parts = parts_of(config, workdir)
    with jax.set_mesh(parts.mesh):
        batches = parts.data.train_batches(parts.mesh, config["steps"])
        deliver = lambda: len(jax.block_until_ready(next(batches))["image"])  # noqa: E731
        alone = in_turns({"loader": deliver}, F.repeats, F.seconds)["loader"]
    shares = [line["train/wait_share"] * 100 for line in lines]
    return [spread([line["train/examples_per_s"] for line in lines]), spread(alone), f"{spread(shares, 1)} %"]


def _start() -> str:
    """Every start is a process of its own."""
    from mmjax.study.document import table
    from mmjax.study.input import spread

    seconds: dict[str, list[dict[str, float]]] = {"cold": [], "compiled before": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(F.repeats):
            for name, runs in seconds.items():
                environment = {**os.environ, "MMJAX_CACHE": f"{folder}/cache_{turn}", "MMJAX_BEGIN": str(time.time())}
                command = [sys.executable, __file__, "start", "--one_start", "--config_file", F.config_file]
                command += ["--workdir", f"{folder}/{turn}_{name[:4]}"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
    lines = [[phase, *(spread([run[phase] for run in runs], 2) for runs in seconds.values())] for phase in PHASES]
    lines.append(["**all**", *(spread([sum(run.values()) for run in runs], 2) for runs in seconds.values())])
    return table([f"seconds, {F.config_file}", *(f"{name}" for name in seconds)], lines)


def _one_start(workdir: Path) -> dict[str, float]:
    """The seconds of each phase, doing what the loop does up to the end of the first step."""
    marks = [float(os.environ["MMJAX_BEGIN"])]

    def mark() -> None:
        marks.append(time.time())

    import jax

    from mmjax.train import checkpoint, evaluation, logging, loop  # noqa: F401 - what a run imports
    from mmjax.train.build import parts_of

    config = _load(F.config_file)
    import grain  # noqa: F401

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


if __name__ == "__main__":
    flags.DEFINE_enum("part", None, ["decode", "read", "wait"], "Of `input` only this; all three otherwise.")
    flags.DEFINE_string("config_file", QUICKSTART, "What `start` starts: FILE or FILE:key=value,...")
    flags.DEFINE_string("document", None, "A Markdown file: the tables replace what stands between the marks of their names.")
    flags.DEFINE_integer("repeats", 5, "How many turns.", lower_bound=1)
    flags.DEFINE_float("seconds", 0.5, "How long a contestant works in each turn.", lower_bound=0.0)
    flags.DEFINE_boolean("one_start", False, "What `start` calls itself with.")
    flags.DEFINE_string("workdir", None, "The folder of --one_start.")
    _cli.run(main, commands=("input", "start"))
