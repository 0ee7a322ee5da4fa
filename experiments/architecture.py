"""Says what a run with `fusion=search` found, and writes it down as a config: the same run with that network alone, from the start.

    python experiments/train.py --config configs/fuse_watch.py:fusion=search --workdir runs/search
    python experiments/architecture.py --workdir runs/search --out configs/found.py
    python experiments/train.py --config configs/found.py --workdir runs/found

It is taken from the best checkpoint by the run's own metric, or that of --step.
"""

import pprint
from pathlib import Path

import _cli
from absl import flags

F = flags.FLAGS
CONFIG = '''"""The fusion that {run} found: {architecture}"""

from ml_collections import ConfigDict

from mmjax.config import parse_arg

CONFIG = {config}


def get_config(arg=""):
    arg = parse_arg(arg, seed={seed}, architecture={architecture!r})
    c = ConfigDict(CONFIG)
    c.seed, c.model.fusion.architecture = arg.seed, arg.architecture
    return c
'''


def main() -> None:
    _cli.required("workdir")
    from mmjax.config import ConfigError
    from mmjax.contract import write_atomic
    from mmjax.fusion.search import found
    from mmjax.train.run import read_config

    config = read_config(Path(F.workdir))
    fusion = config["model"].get("fusion", {})
    if fusion.get("name") != "search" or fusion.get("architecture"):
        raise ConfigError(f"{F.workdir} did not search: its model.fusion is {fusion}. Train with model.fusion=dict(name='search').")
    weights = _weights(Path(F.workdir), config["checkpoint"])
    architecture = found(weights)
    for name, values in weights.items():
        if name.startswith("architecture_"):
            print(f"{name.removeprefix('architecture_'):28} {_softmax(values)}")
    print(f"\n--config.model.fusion.architecture={architecture!r}")
    if F.out:
        config["model"]["fusion"]["architecture"] = architecture
        text = pprint.pformat(config, width=120, sort_dicts=False)
        write_atomic(Path(F.out), CONFIG.format(run=F.workdir, architecture=architecture, config=text, seed=config["seed"]))
        print(f"Config: {F.out}")


def _weights(workdir: Path, checkpoint: dict) -> dict:
    """The fusion's parameters by name, those of the mixture as arrays."""
    from contextlib import closing

    import jax
    import jax.numpy as jnp

    from mmjax.config import CheckpointError
    from mmjax.train.checkpoint import Checkpoints

    with closing(Checkpoints(workdir / "checkpoints", **checkpoint, read_only=True)) as checkpoints:
        step = checkpoints.best_step if F.step is None else F.step
        if step not in checkpoints.steps:
            raise CheckpointError(f"{workdir} has no checkpoint {step or ''}. It has: {', '.join(map(str, checkpoints.steps)) or 'none'}.")
        item, begin = "ema" if "ema" in checkpoints.items(step) else "params", "model/fusion/"
        stored = {name.removeprefix(begin): shape for name, shape in checkpoints.stored(step, item).items() if name.startswith(begin)}
        wanted = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in stored.items() if name.startswith("architecture_")}
        read = checkpoints.restore_some(step, item, {"model": {"fusion": wanted}})["model"]["fusion"]
    return {name.split("/")[0]: () for name in stored} | read


def _softmax(values) -> str:
    import jax

    return "  ".join(f"{x:.2f}" for x in jax.nn.softmax(values).tolist())


if __name__ == "__main__":
    _cli.define_workdir()
    flags.DEFINE_integer("step", None, "The checkpoint's step; the best one's if left out.")
    flags.DEFINE_string("out", None, "The config to write.")
    _cli.run(main)
