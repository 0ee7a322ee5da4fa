"""Fusion methods on the watch: accelerometer and gyroscope to exercise, every subject tested once, by models that never saw them.

    python experiments/compare.py --config configs/compare_watch.py --workdir runs/compare_watch --fusion=all --seeds=5 --processes=2

Five folds of two subjects each; intervals and tests are over the ten subjects. Encoders are narrower than those of
fuse_watch.py, give half as many tokens and are trained on fewer windows, so that hundreds of runs are affordable on two CPU cores.
"""

from typing import Any

from configs import fuse_watch
from configs._compare import compare
from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, folds=5)
    run: Any = fuse_watch.get_config(f"smoke={arg.smoke}")
    run.steps = 4 if arg.smoke else 100
    run.data.batch_size = 16 if arg.smoke else 32
    for encoder in run.model.encoders.values():
        encoder.width, encoder.stride = (16, 2) if arg.smoke else (32, 4)
    noise = dict(series=dict(sensor_noise=(0.5, 1.0, 2.0)))
    return compare(run, "subject", noise, 2 if arg.smoke else arg.folds)
