"""Fusion methods on Tux Paint's stamps: picture, description and spoken description, with their gaps, to one of 16 categories.

    python experiments/compare.py --config configs/compare_stamps.py --workdir runs/compare_stamps --seeds=5 --processes=2

Five folds, in which every stamp is tested once by models that saw nothing of its group; intervals and tests are over groups.
Pictures go through their frozen encoder once; texts and speech have smaller encoders than in fuse_stamps.py, for less time.
"""

from typing import Any

from configs import fuse_stamps
from configs._compare import TWELVE, compare
from configs._recipes import RECIPES
from configs.fuse_stamps import SPEECH
from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, folds=5, root="/usr/share/tuxpaint/stamps")
    run: Any = fuse_stamps.get_config(f"smoke={arg.smoke},fold=0,root={arg.root}")
    run.steps = 2 if arg.smoke else 120
    run.data.batch_size = 16 if arg.smoke else 32
    run.data.batch_pp[SPEECH] = "log_mel(32, window=0.04, hop=0.04)|spec_augment(1, 6, 4)"
    run.model.encoders["text"].width = 32 if arg.smoke else 64
    run.model.encoders[SPEECH].blocks = ((8, 2), (16, 2)) if arg.smoke else ((8, 2), (16, 2), (32, 2))
    run.data.pp[SPEECH] = "choose|decode|crop_or_pad(2)"
    noise = dict(image={}, audio=dict(white_noise=(5, -5)), text=dict(typos=(0.1, 0.3)))
    c: Any = compare(run, "group", noise, 2 if arg.smoke else arg.folds)
    c.fusions, c.search = TWELVE, (1.0, 3.0)
    c.rows += [(f"concat, {name}", changes) for name, changes in RECIPES.items() if name != "modality_dropout"]  # all others have it
    return c
