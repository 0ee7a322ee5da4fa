"""Operations on labels: the number or the name of a class, down to int32. See `pp/builder.py`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from mmjax.config import DataError, nearest

Op: TypeAlias = Callable[..., Any]


def index(*, classes: Sequence[str] | None) -> Op:
    """A class's place among the source's `classes`, int32 []: given by its name or as that number. -1 is absent.

    Raises:
        DataError: the label is none of the classes; or it is a name, and the source has no classes.
    """
    places = {name: place for place, name in enumerate(classes or ())}

    def op(x: Any) -> np.ndarray | None:
        if isinstance(x, str):
            if x not in places:
                why = f"is none of the source's classes.{nearest(x, places)}" if places else "is a name, and the source has no classes."
                raise DataError(f"The label {x!r} {why}")
            return np.array(places[x], np.int32)
        place = operator.index(x)
        if place < -1 or (places and place >= len(places)):
            allowed = f"from 0 to {len(places) - 1}" if places else "0 or more"
            raise DataError(f"The label {place} is no class: it should be {allowed}, or -1 where there is none.")
        return None if place == -1 else np.array(place, np.int32)

    return op
