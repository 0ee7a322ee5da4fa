"""Trains one run, evaluates its best checkpoint and writes its report.

    python experiments/train.py --config configs/align_openmoji.py --workdir runs/x [--config.optimizer.lr=3e-4 ...]

The same line again resumes an interrupted run, or evaluates a finished one again. On several hosts the same line is given on
each: what Slurm, TPUs or MPI tell is understood, and --coordinator, --processes and --process say it elsewhere (docs/slurm.md,
docs/tpu.md, docs/kubernetes.md). experiments/launch.py tries it on one machine.
"""

from pathlib import Path

import _cli
from absl import flags


def main() -> None:
    _cli.required("config", "workdir")
    import jax

    from mmjax.report.html import write_report
    from mmjax.train.loop import train

    workdir = Path(flags.FLAGS.workdir)
    results = train(flags.FLAGS.config, workdir)
    if jax.process_index() == 0:
        report = write_report(workdir)
        _cli.print_headline(results)
        print(f"\nResults: {workdir / 'results.json'}\nReport:  {report}")


if __name__ == "__main__":
    _cli.define_config()
    _cli.define_workdir()
    _cli.define_processes()
    _cli.run(main)
