"""Trains one config with several seeds, one after another, and writes a table of means and spreads.

    python experiments/seeds.py --config_file configs/align_openmoji.py --seeds 3 --workdir runs/seeds [--document docs/quickstart.md]

Each run is that of train.py in WORKDIR/seed_<n>; finished ones are not trained again.
"""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import _cli
from absl import flags


def _finished(workdir: Path) -> bool:
    results = workdir / "results.json"
    return results.exists() and "time/train_s" in json.loads(results.read_text())


def main() -> None:
    _cli.required("config_file", "workdir")
    from mmjax.config import UserError
    from mmjax.study.document import about, fill
    from mmjax.study.seeds import markdown, summary

    f = flags.FLAGS
    signal.signal(signal.SIGINT, lambda *_: None)  # the run that it is for saves and says so
    path, _, argument = f.config_file.partition(":")
    results, environments = [], []
    for seed in range(f.seeds):
        workdir = Path(f.workdir) / f"seed_{seed}"
        if not _finished(workdir):
            config = f"{path}:{','.join(filter(None, [argument, f'seed={seed}']))}"
            command = [sys.executable, str(Path(__file__).with_name("train.py")), "--config", config, "--workdir", str(workdir)]
            if subprocess.run(command).returncode:
                raise UserError(f"Seed {seed} did not finish, see above. The same command goes on from there.")
        results.append(json.loads((workdir / "results.json").read_text()))
        environments.append(json.loads((workdir / "environment.json").read_text()))
    seconds = ", ".join(f"{r['time/train_s']:.0f}" for r in results)
    made = about(
        environments,
        ("jax", "flax", "optax"),
        **{"seconds of training per seed": seconds},
    )
    rows = [row for row in summary(results) if re.search(f.metrics, row["name"])]
    if not rows:
        raise UserError(f"--metrics={f.metrics}: no figure of these runs is called so. There are {', '.join(results[0])[:500]}.")
    text = f"{made}\n{markdown(rows, range(f.seeds))}"
    print(text)
    if f.document:
        fill(f.document, text, f.mark)


if __name__ == "__main__":
    flags.DEFINE_string("config_file", None, "The config's FILE or FILE:key=value,...; it needs a `seed` argument.")
    _cli.define_workdir()
    flags.DEFINE_integer("seeds", 3, "How many seeds, from 0 on.", lower_bound=1)
    flags.DEFINE_string("document", None, "A Markdown file: the table replaces what stands between its two result marks.")
    flags.DEFINE_string("mark", "results", "The name in the document's two marks, <!-- results --> and <!-- end of results -->.")
    flags.DEFINE_string("metrics", "", "A regular expression: only test figures whose name it is found in.")
    _cli.run(main)
