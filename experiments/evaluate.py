"""Evaluates a checkpoint of a run again, and writes its results and report anew.

    python experiments/evaluate.py --workdir runs/x [--step N]

Without --step it is the best checkpoint by the run's own metric. On several hosts the same line is given on each, as of train.py.
"""

from pathlib import Path

import _cli
from absl import flags


def main() -> None:
    _cli.required("workdir")
    import jax

    from mmjax.report.html import write_report
    from mmjax.train.evaluation import evaluate_run

    workdir = Path(flags.FLAGS.workdir)
    results = evaluate_run(workdir, flags.FLAGS.step)
    if jax.process_index() == 0:
        report = write_report(workdir)
        _cli.print_headline(results)
        print(f"\nResults: {workdir / 'results.json'}\nReport:  {report}")


if __name__ == "__main__":
    _cli.define_workdir()
    _cli.define_processes()
    flags.DEFINE_integer("step", None, "The checkpoint's step; the best one's if left out.")
    _cli.run(main)
