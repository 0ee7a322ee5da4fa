"""Which exercise is it? The accelerometer and the gyroscope of a smartwatch, fused; tested on two people who were never seen.

    python experiments/train.py --config configs/fuse_watch.py --workdir runs/fuse --config.model.fusion.name=gated

takes any other method of mmjax/fusion/; where one has a main modality, it is the first by name, the accelerometer.
`:only=series_gyroscope` trains that sensor alone, which is what a fusion has to be better than; `fold=1` to `fold=4` take
other people. Some two minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import _fuse, _recipes
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
    _fuse.trained(c, arg.smoke, lr=2e-3, by="subject")
    return _recipes.apply(c, arg.recipe)
