"""Fusion methods on pictures and spoken digits: every picture and every voice tested once. The speech is synthetic.

    python experiments/compare.py --config configs/compare_av_digits.py --workdir runs/compare_av_digits --seeds=5 --processes=2

Five folds of three voices and some 360 pictures each; intervals and tests are over the fifteen voices.
"""

from ml_collections import ConfigDict

from configs import _compare, fuse_av_digits
from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, folds=5, images="digits", speech="espeak")
    c = ConfigDict()
    c.run = fuse_av_digits.get_config(f"smoke={arg.smoke},images={arg.images},speech={arg.speech}")
    c.run.evals = dict(
        classification=dict(name="classification", by="voice"),
        missing=dict(name="missing", split=None),
        calibration=dict(name="calibration", split=None),
        noise=dict(
            name="noise", split=None, corruptions=dict(image=dict(pixel_noise=(0.1, 0.2, 0.4)), audio=dict(white_noise=(-10, -15, -20)))
        ),
    )
    del c.run.checkpoint, c.run.log  # a comparison keeps the results of its runs, not the runs
    c.folds = [{"data.source.fold": fold} for fold in range(2 if arg.smoke else arg.folds)]
    c.fusions = _compare.TWELVE
    c.options = dict(width=64, depth=2, own_depth=1)  # by default 256 wide and 4 deep, which would be most of the cost here
    c.search = (0.5, 1.0, 2.0)
    c.select = "validation/classification/accuracy"
    c.score = "test/classification/accuracy"
    c.by = "voice"
    return c
