"""Which evaluator measures a target, and by which figure first."""

from __future__ import annotations

from mmjax.evals.classification import Classification
from mmjax.evals.regression import Regression

FIRST = {"label": "accuracy", "tags": "f1_micro", "value": "mae"}  # by the target's kind


def by_target(target: str, output: str | None, ordinal: bool, train: str) -> Classification | Regression:
    """`regression` for a `value...`, `classification` for any other."""
    if target.split("_", 1)[0] == Regression.kind:
        return Regression(target, output, train, alone=False)
    return Classification(target, output, ordinal, train, alone=False)
