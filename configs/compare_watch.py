"""Fusion methods on the watch: accelerometer and gyroscope to exercise, every subject tested once, by models that never saw them.

    python experiments/compare.py --config configs/compare_watch.py --workdir runs/compare_watch --fusion=all --seeds=5 --processes=2

Five folds of two subjects each; intervals and tests are over the ten subjects. Encoders are narrower than those of
fuse_watch.py and trained on fewer windows, so that hundreds of runs are affordable on two CPU cores.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import fuse_watch
from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, folds=5)
    c = ConfigDict()
    run: Any = fuse_watch.get_config(f"smoke={arg.smoke}")
    run.steps = 4 if arg.smoke else 120
    run.data.batch_size = 16 if arg.smoke else 32
    for encoder in run.model.encoders.values():
        encoder.width = 16 if arg.smoke else 32
    run.evals = dict(
        classification=dict(name="classification", by="subject"),
        missing=dict(name="missing", split=None),
        calibration=dict(name="calibration", split=None),
        noise=dict(name="noise", split=None, corruptions=dict(series=dict(sensor_noise=(0.5, 1.0, 2.0)))),
    )
    del run.checkpoint, run.log  # a comparison keeps the results of its runs, not the runs
    c.run = run
    c.folds = [{"data.source.fold": fold} for fold in range(2 if arg.smoke else arg.folds)]
    c.options = dict(width=64, depth=2, own_depth=1)  # by default 256 wide and 4 deep, which would be most of the cost here
    c.search = (0.5, 1.0, 2.0)
    c.select = "validation/classification/accuracy"
    c.score = "test/classification/accuracy"
    c.by = "subject"
    return c
