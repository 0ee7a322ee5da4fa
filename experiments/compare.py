"""Compares fusion methods on the same data, seeds and budget: a table with intervals and paired tests, and a page of pictures.

    python experiments/compare.py --config configs/compare_watch.py --workdir runs/compare --fusion=all --seeds=5

`--fusion=my_pkg.idea:Idea` puts a class of yours beside `concat`; with the folder of an earlier comparison it becomes one
more row of it. Stopped or killed, the same line goes on. `--processes=2` shares the cores of this machine; the same line
on other machines that see the folder shares the work with them.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import _cli
from absl import flags


def main() -> None:
    _cli.required("config", "workdir")
    f = flags.FLAGS
    workers: list[subprocess.Popen] = []

    def stop(number, _):  # at once: a unit is written whole or not at all, and an exception could be lost in a callback
        for worker in workers:
            worker.terminate()
        print("Stopped. The same command goes on with the unit that was under way.", file=sys.stderr, flush=True)
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if f.process == 0:
        _pin(0, cores, f.processes)
    from mmjax.contract import write_atomic
    from mmjax.report.comparison import write_comparison
    from mmjax.study import compare, comparison
    from mmjax.study.document import about, fill
    from mmjax.train.run import environment

    workdir = Path(f.workdir)
    plan = compare.plan(f.config, fusion=f.fusion, seeds=f.seeds, equal=f.equal, vmap=f.vmap)
    here = environment()
    compare.begin(workdir, plan, here)
    workers += _workers(cores, f.processes) if f.process == 0 else []
    compare.work(workdir, plan, say=lambda line: print(line, flush=True))
    if f.process:
        return
    for worker in workers:
        worker.wait()
    results = compare.read(workdir, plan)
    found = comparison.compared(plan, results)
    units = [unit for of in results.values() for unit in of]
    made = about([here], ("jax", "flax", "optax"), work=f"{len(units)} units, {sum(u['seconds'] for u in units) / 60:.0f} minutes in all")
    text = f"{made}\n{comparison.markdown(found)}\n{comparison.more(found, results)}"
    for name, content in {
        "comparison.md": text,
        "comparison.csv": comparison.to_csv(found),
        "scores.json": comparison.as_json(found),
    }.items():
        write_atomic(workdir / name, content)
    page = write_comparison(
        workdir,
        workdir.name,
        {key: str(value) for key, value in here.items() if key in ("command", "git_commit", "cpu", "devices")},
        {**comparison.tables(found), "how long it took": comparison.timing(results)},
        comparison.pictures(found),
        comparison.notes(found),
    )
    print(f"\n{made}\n{comparison.markdown(found)}\nPage: {page}")
    if f.document:
        fill(f.document, text)


def _workers(cores: list[int], processes: int) -> list[subprocess.Popen]:
    """The same command as the other processes of this comparison, which inherit their cores."""
    found = []
    for i in range(1, processes):
        _pin(i, cores, processes)
        found.append(subprocess.Popen([sys.executable, *sys.argv, f"--process={i}"]))
    _pin(0, cores, processes)
    return found


def _pin(i: int, cores: list[int], processes: int) -> None:
    """Small models gain nothing by several cores: each process keeps to its share of them."""
    if len(cores) >= processes > 1:
        os.sched_setaffinity(0, cores[i::processes])


if __name__ == "__main__":
    _cli.define_config()
    _cli.define_workdir()
    flags.DEFINE_string(
        "fusion", None, "'all', or names by comma: files of mmjax/fusion, or my_pkg.idea:Idea. By default what the config says."
    )
    flags.DEFINE_integer("seeds", 5, "How many seeds each method is trained with in every fold, from 0 on.", lower_bound=1)
    flags.DEFINE_enum("equal", "steps", ["steps", "flops"], "What the budgets of all methods are equal in.")
    flags.DEFINE_integer("processes", 1, "How many processes share the work on this machine.", lower_bound=1)
    flags.DEFINE_bool("vmap", None, "Whether seeds are trained in one vmapped step: by default on accelerators, not on a CPU.")
    flags.DEFINE_string("document", None, "A Markdown file: the table replaces what stands between its two result marks.")
    flags.DEFINE_integer("process", 0, "Which of the processes this is: set by the first.", lower_bound=0)
    _cli.run(main)
