"""Trains one run, evaluates its best checkpoint and writes its report.

    python experiments/train.py --config configs/align_openmoji.py --workdir runs/x [--config.optimizer.lr=3e-4 ...]

The same line again resumes an interrupted run, or evaluates a finished one again.
"""

from pathlib import Path

import _cli
from absl import flags


def main() -> None:
    _cli.required("config", "workdir")
    from mmjax.report.html import write_report
    from mmjax.train.loop import train

    workdir = Path(flags.FLAGS.workdir)
    results = train(flags.FLAGS.config, workdir)
    report = write_report(workdir)
    _cli.print_headline(results)
    print(f"\nResults: {workdir / 'results.json'}\nReport:  {report}")


if __name__ == "__main__":
    _cli.define_config()
    _cli.define_workdir()
    _cli.run(main)
