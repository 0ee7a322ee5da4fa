"""One item of several, for streams of every kind that come so: captions, names by language, recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def choose(*languages: str, aliases: bool = True) -> Callable[..., Any]:
    """One item of several, given as itself, a list (captions; a name and its aliases; recordings) or a dict of these by language.

    A language is drawn from `languages` (all, if none is given), then an item, or with `aliases=False` the first. In
    evaluation it is the first of the first language there is. Without an item in these languages the stream is absent.
    """

    def op(x: Any, rng: np.random.Generator | None) -> Any:
        if isinstance(x, Mapping):
            found = [x[language] for language in (languages or x) if x.get(language)]
            if not found:
                return None
            x = found[0] if rng is None else found[rng.integers(len(found))]
        if not isinstance(x, list | tuple):
            return x
        if not x:
            return None
        return x[0] if rng is None or not aliases else x[int(rng.integers(len(x)))]

    return op
