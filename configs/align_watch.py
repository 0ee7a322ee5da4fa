"""Align the accelerometer of a smartwatch with its gyroscope: which of the movements was felt by which sensor?

Windows of 4 s from shoulder exercises of ten people (mmjax/data/sources/watch.py), tested on two people who were never seen
(`fold=1` to `fold=4` take others). A window of one sensor is the query, the window of the other at the same moments what is
to be found, among all that do not overlap. Twenty repetitions of an exercise follow each other, and windows of one
recording differ in little but the phase of the movement: what is pooled is four means, one a second, not one.

A minute on two CPU cores. A linear probe then asks what exercise it is, which nothing was told in training.
"""

from ml_collections import ConfigDict

from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0, fold=0)
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 4 if arg.smoke else 300

    sensors = ("series_accelerometer", "series_gyroscope")
    c.data = dict(
        source=dict(name="watch", seconds=4.0, stride=1.0, fold=arg.fold),
        batch_size=16 if arg.smoke else 128,
        pp=dict.fromkeys(sensors, "resample(50, 25)|window(100)"),
        batch_pp=dict.fromkeys(sensors, "rotate(20)"),
        cache=True,
    )
    size = dict(width=16, depth=2) if arg.smoke else dict(width=96, depth=4)
    encoder = dict(name="tcn", kernel=5, causal=False, norm="group", stride=2, pool=4, rate=25.0, **size)
    c.model = dict(name="aligner", width=32 if arg.smoke else 128, encoders=dict.fromkeys(sensors, encoder))
    c.objectives = dict(contrastive=dict(name="contrastive", loss="softmax", pairs=[sensors], init_scale=10.0))
    c.optimizer = dict(
        name="adamw",
        lr=2e-3,
        schedule="cosine",
        warmup=1 if arg.smoke else 30,
        ema=0.97,
        rules=[(".*/(bias|scale|log_scale)", dict(decay=0.0)), (".*", dict(decay=0.1))],
    )
    c.mesh = dict(data=-1, fsdp=1)
    probe = dict(name="linear_probe", every=None)
    c.evals = dict(
        retrieval=dict(name="retrieval", streams=sensors, every=4 if arg.smoke else 50),
        loss=dict(name="loss", every=4 if arg.smoke else 50),
        probe_accelerometer=dict(probe, stream=sensors[0]),
        probe_gyroscope=dict(probe, stream=sensors[1]),
    )
    c.checkpoint = dict(every=4 if arg.smoke else 50, keep=2, best="validation/retrieval/series_gyroscope_to_series_accelerometer/r@10")
    c.log = dict(every=1 if arg.smoke else 10)
    return c
