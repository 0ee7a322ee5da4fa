"""How the configs that classify by a fusion are trained and evaluated."""


def trained(c, smoke, lr=1e-3, warmup=20, every=50, frozen=(), smoothing=0.1, by=None, best="balanced_accuracy"):
    """Fills in all behind the model. Encoders in `frozen` stay as they are; `by` is what figures are given for besides, as "subject"."""
    c.objectives = dict(label=dict(name="cross_entropy", **(dict(smoothing=smoothing) if smoothing else {})))
    c.optimizer = dict(
        name="adamw",
        lr=lr,
        schedule="cosine",
        warmup=1 if smoke else warmup,
        ema=0.97,
        rules=[
            *((f"model/{m}/.*", dict(freeze=True)) for m in frozen),
            (".*/(bias|scale)", dict(decay=0.0)),
            (".*", dict(decay=0.05)),
        ],
    )
    c.mesh = dict(data=-1, fsdp=1)
    every = c.steps if smoke else every
    c.evals = dict(
        classification=dict(name="classification", every=every, **(dict(by=by) if by else {})),
        loss=dict(name="loss", every=every),
        missing=dict(name="missing"),
        contribution=dict(name="contribution"),
        calibration=dict(name="calibration"),
    )
    c.checkpoint = dict(every=every, keep=2, best=f"validation/classification/{best}")
    c.log = dict(every=1 if smoke else 10)
    return c
