"""What comparisons share."""

# Of each kind of fusion one or two: what is compared where all of them would take too long.
TWELVE = (
    "concat", "pooling", "weighted", "gated", "attention_pooling", "film", "cross_attention", "early_transformer",
    "bottleneck", "low_rank", "multiplicative", "decision",
)  # fmt: skip
