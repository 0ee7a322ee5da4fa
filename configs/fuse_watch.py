"""Which exercise is it? The accelerometer and the gyroscope of a smartwatch, fused; tested on two people who were never seen.

    python experiments/train.py --config configs/fuse_watch.py --workdir runs/fuse --config.model.fusion.name=gated

takes any other method of mmjax/fusion/; where one has a main modality, it is the first by name, the accelerometer.
`:only=series_gyroscope` trains that sensor alone, which is what a fusion has to be better than; `fold=1` to `fold=4` take
other people. Some two minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import _recipes
from mmjax.config import parse_arg

SENSORS = ("series_accelerometer", "series_gyroscope")


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0, fold=0, only="", recipe="", fusion="concat")
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 4 if arg.smoke else 200

    sensors = (arg.only,) if arg.only else SENSORS
    c.data = dict(
        source=dict(name="watch", seconds=4.0, stride=1.0, fold=arg.fold),
        batch_size=16 if arg.smoke else 64,
        pp=dict.fromkeys(sensors, "resample(50, 25)|window(100)") | dict(label="index()"),
        batch_pp=dict.fromkeys(sensors, "rotate(20)|normalise"),
        cache=True,
    )
    size = dict(width=16, depth=2) if arg.smoke else dict(width=48, depth=3)
    encoder = dict(name="tcn", kernel=5, causal=False, norm="group", stride=2, rate=25.0, dropout=0.1, **size)
    c.model = dict(
        name="fuser",
        encoders=dict.fromkeys(sensors, encoder),
        fusion=dict(name=arg.fusion),
        heads=dict(label=dict(size=7, dropout=0.3)),
    )
    c.objectives = dict(label=dict(name="cross_entropy", smoothing=0.1))
    c.optimizer = dict(
        name="adamw",
        lr=2e-3,
        schedule="cosine",
        warmup=1 if arg.smoke else 20,
        ema=0.97,
        rules=[(".*/(bias|scale)", dict(decay=0.0)), (".*", dict(decay=0.05))],
    )
    c.mesh = dict(data=-1, fsdp=1)
    c.evals = dict(
        classification=dict(name="classification", every=4 if arg.smoke else 50, by="subject"),
        loss=dict(name="loss", every=4 if arg.smoke else 50),
        missing=dict(name="missing"),
        contribution=dict(name="contribution"),
        calibration=dict(name="calibration"),
    )
    c.checkpoint = dict(every=4 if arg.smoke else 50, keep=2, best="validation/classification/balanced_accuracy")
    c.log = dict(every=1 if arg.smoke else 10)
    return _recipes.apply(c, arg.recipe)
