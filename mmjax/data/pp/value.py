"""Operations on values to be predicted: numbers to float32. See `pp/builder.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from mmjax.config import DataError

Op: TypeAlias = Callable[..., Any]


def number() -> Op:
    """A number, or a list of them, as float32 [] or [D]; absent where any is NaN. Text is read as a number.

    Raises:
        DataError: it is no number, or infinite.
    """

    def op(x: Any) -> np.ndarray | None:
        try:
            value = np.asarray(x, np.float32)
        except (TypeError, ValueError):
            raise DataError(f"The value {x!r} is no number.") from None
        if np.isinf(value).any() or value.ndim > 1:
            raise DataError(f"The value {x!r} should be a finite number, or a list of them.")
        return None if np.isnan(value).any() else value

    return op


def scale(mean: float, std: float) -> Op:
    """(x - mean) / std."""
    if not std > 0:
        raise ValueError(f"std={std} should be above 0")
    return lambda x: ((x - mean) / std).astype(np.float32)
