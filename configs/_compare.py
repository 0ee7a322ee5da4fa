"""What comparisons share."""

# Of each kind of fusion one or two: what is compared where all of them would take too long.
TWELVE = (
    "concat", "pooling", "weighted", "gated", "attention_pooling", "film", "cross_attention", "early_transformer",
    "bottleneck", "low_rank", "multiplicative", "decision",
)  # fmt: skip


def compare(run, by, corruptions, folds):
    """A comparison of fusions in a run, over folds of its source; intervals and tests are over blocks, a field of the examples."""
    from ml_collections import ConfigDict

    run.evals = dict(
        classification=dict(name="classification", by=by),
        missing=dict(name="missing", split=None),
        calibration=dict(name="calibration", split=None),
        noise=dict(name="noise", split=None, corruptions=corruptions),
    )
    del run.checkpoint, run.log  # a comparison keeps the results of its runs, not the runs
    c = ConfigDict()
    c.run = run
    c.folds = [{"data.source.fold": fold} for fold in range(folds)]
    c.options = dict(width=64, depth=2, own_depth=1)  # by default 256 wide and 4 deep, which would be most of the cost
    c.search = (1.0, 2.0, 4.0)  # of a learning rate that is meant for longer runs
    c.select = "validation/classification/accuracy"
    c.score = "test/classification/accuracy"
    c.by = by
    label = run.objectives.label.to_dict()
    c.rows = [("late_average", {"model.fusion": {"name": "decision"}, "objectives": {"unimodal": {**label, "name": "unimodal"}}})]
    return c
