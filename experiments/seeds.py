"""Trains one config with several seeds, and writes a table of means and spreads.

    python experiments/seeds.py --config_file configs/align_openmoji.py --seeds 3 --workdir runs/seeds [--document docs/quickstart.md]

Each run is that of train.py in WORKDIR/seed_<n>; finished ones are not trained again. `--variants "how=lit;how=lora,rank=4"`
trains the config with each of these arguments, in WORKDIR/<variant>/seed_<n>, for a table of a line each.
"""

import json
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _cli
from absl import flags


def _finished(workdir: Path) -> bool:
    results = workdir / "results.json"
    return results.exists() and "time/train_s" in json.loads(results.read_text())


def _train(config: str, workdir: Path) -> bool:
    """Whether the run is finished now. Runs beside each other keep what they say to themselves."""
    if _finished(workdir):
        return True
    command = [sys.executable, str(Path(__file__).with_name("train.py")), "--config", config, "--workdir", str(workdir)]
    if flags.FLAGS.processes == 1:
        return not subprocess.run(command).returncode
    done = subprocess.run(command, capture_output=True, text=True)
    print(f"{config}: {'finished' if not done.returncode else done.stderr.strip()[-2_000:]}", flush=True)
    return not done.returncode


def main() -> None:
    _cli.required("config_file", "workdir")
    from mmjax.config import UserError
    from mmjax.contract import write_atomic
    from mmjax.report.draw import intervals_svg, standalone
    from mmjax.study.document import about, fill
    from mmjax.study.seeds import markdown, picture, summary, variants

    f = flags.FLAGS
    signal.signal(signal.SIGINT, lambda *_: None)  # the runs that it is for save and say so
    path, _, argument = f.config_file.partition(":")
    names = [name.strip() for name in (f.variants or "").split(";") if name.strip()] or [""]
    if f.picture and names == [""]:
        raise UserError("--picture shows --variants beside each other, and there are none.")
    places = {(name, seed): Path(f.workdir) / name / f"seed_{seed}" for name in names for seed in range(f.seeds)}
    configs = [f"{path}:{','.join(filter(None, [argument, name, f'seed={seed}']))}" for name, seed in places]
    with ThreadPoolExecutor(f.processes) as pool:
        for config, finished in zip(configs, pool.map(_train, configs, places.values()), strict=True):
            if not finished:
                pool.shutdown(cancel_futures=True)
                raise UserError(f"{config} did not finish, see above. The same command goes on from there.")
    found = {name: [json.loads((p / "results.json").read_text()) for (n, _), p in places.items() if n == name] for name in names}
    environments = [json.loads((workdir / "environment.json").read_text()) for workdir in places.values()]
    rows = [row for row in summary(found[names[0]]) if re.search(f.metrics, row["name"])]
    if not rows:
        raise UserError(f"--metrics={f.metrics}: no figure of these runs is called so. There are {', '.join(found[names[0]][0])[:500]}.")
    metrics = [row["name"] for row in rows]
    if names == [""]:
        seconds = ", ".join(f"{r['time/train_s']:.0f}" for r in found[""])
        made = about(environments, ("jax", "flax", "optax"), **{"seconds of training per seed": seconds})
        text = f"{made}\n{markdown(rows, range(f.seeds))}"
    else:
        made = about(environments, ("jax", "flax", "optax"), seeds=f"{f.seeds}; ± is the standard deviation over them")
        text = f"{made}\n{variants(found, metrics)}"
    print(text)
    if f.document:
        fill(f.document, text, f.mark)
    if f.picture:
        shown = picture(found, metrics[0])
        write_atomic(Path(f.picture), standalone(intervals_svg(shown, shown.xlabel)))


if __name__ == "__main__":
    flags.DEFINE_string("config_file", None, "The config's FILE or FILE:key=value,...; it needs a `seed` argument.")
    _cli.define_workdir()
    flags.DEFINE_integer("seeds", 3, "How many seeds, from 0 on.", lower_bound=1)
    flags.DEFINE_string("variants", None, "Further arguments of the config, key=value,..., separated by ';': each is a line of the table.")
    flags.DEFINE_integer("processes", 1, "How many runs are trained at a time.", lower_bound=1)
    flags.DEFINE_string("document", None, "A Markdown file: the table replaces what stands between its two result marks.")
    flags.DEFINE_string("mark", "results", "The name in the document's two marks, <!-- results --> and <!-- end of results -->.")
    flags.DEFINE_string("picture", None, "An SVG file: the first of the metrics, by variant.")
    flags.DEFINE_string("metrics", "", "A regular expression: only test figures whose name it is found in.")
    _cli.run(main)
