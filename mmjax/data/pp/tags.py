"""Operations on tags: the names or numbers of all classes that hold, down to bool [C]. See `pp/builder.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from mmjax.config import DataError
from mmjax.data.pp.label import index

Op: TypeAlias = Callable[..., Any]


def multi_hot(count: int | None = None, *, classes: Sequence[str] | None) -> Op:
    """A list of classes, by name or number, as bool [C]: C is that of the source's `classes`, or `count`. An empty list is present.

    Raises:
        DataError: a class is none of them, or the source has no classes and `count` is not given.
    """
    if classes and count not in (None, len(classes)):
        raise ValueError(f"count={count}, but the source has {len(classes)} classes")
    if count is not None and count < 1:
        raise ValueError(f"count={count} should be at least 1")
    place = index(classes=classes)

    def op(x: Sequence[Any]) -> np.ndarray:
        size = len(classes) if classes else count
        if size is None:
            raise DataError("The source has no classes for tags: say how many there are, as in multi_hot(20).")
        out = np.zeros(size, bool)
        for tag in [x] if isinstance(x, str) else x:
            found = place(tag)
            if found is None or found >= size:
                raise DataError(f"The tag {tag} is no class: it should be from 0 to {size - 1}.")
            out[found] = True
        return out

    return op
