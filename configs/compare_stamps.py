"""Fusion methods on Tux Paint's stamps: picture, description and spoken description, with their gaps, to one of 16 categories.

    python experiments/compare.py --config configs/compare_stamps.py --workdir runs/compare_stamps --seeds=5 --processes=2

Five folds, in which every stamp is tested once by models that saw nothing of its group; intervals and tests are over groups.
Pictures go through their frozen encoder once; speech is heard by a smaller encoder than that of fuse_stamps.py, for less time.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import _compare, fuse_stamps
from configs._recipes import RECIPES
from configs.fuse_stamps import SPEECH
from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, folds=5, root="/usr/share/tuxpaint/stamps")
    c = ConfigDict()
    run: Any = fuse_stamps.get_config(f"smoke={arg.smoke},fold=0,root={arg.root}")
    run.steps = 2 if arg.smoke else 150
    run.data.batch_pp[SPEECH] = "log_mel(32, window=0.04, hop=0.04)|spec_augment(1, 6, 4)"
    run.model.encoders[SPEECH].blocks = ((8, 2), (16, 2)) if arg.smoke else ((16, 2), (32, 2), (64, 2))
    noise = dict(image={}, audio=dict(white_noise=(10, 0, -10)), text=dict(typos=(0.1, 0.2, 0.3)))
    run.evals = dict(
        classification=dict(name="classification", by="group"),
        missing=dict(name="missing", split=None),
        calibration=dict(name="calibration", split=None),
        noise=dict(name="noise", split=None, corruptions=noise),
    )
    del run.checkpoint, run.log  # a comparison keeps the results of its runs, not the runs
    c.run = run
    c.folds = [{"data.source.fold": fold} for fold in range(2 if arg.smoke else arg.folds)]
    c.fusions = _compare.TWELVE
    c.rows = [(f"concat, {name}", changes) for name, changes in RECIPES.items() if name != "modality_dropout"]  # all others have it
    c.options = dict(width=64, depth=2, own_depth=1)  # by default 256 wide and 4 deep, which would be most of the cost here
    c.search = (0.5, 1.0, 2.0)
    c.select = "validation/classification/accuracy"
    c.score = "test/classification/accuracy"
    c.by = "group"
    return c
