"""Fusion methods on pictures and spoken digits: every picture and every voice tested once. The speech is synthetic.

    python experiments/compare.py --config configs/compare_av_digits.py --workdir runs/compare_av_digits --seeds=5 --processes=2

Five folds of three voices and some 360 pictures each; intervals and tests are over the fifteen voices.
"""

from configs import fuse_av_digits
from configs._compare import TWELVE, compare
from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, folds=5, images="digits", speech="espeak")
    run = fuse_av_digits.get_config(f"smoke={arg.smoke},images={arg.images},speech={arg.speech}")
    run.steps = 2 if arg.smoke else 100
    noise = dict(image=dict(pixel_noise=(0.2, 0.4)), audio=dict(white_noise=(-10, -20)))
    c = compare(run, "voice", noise, 2 if arg.smoke else arg.folds)
    c.fusions = TWELVE
    return c
