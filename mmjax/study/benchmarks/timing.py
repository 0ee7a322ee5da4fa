"""Timing in turns: one contestant after another and all of it again, so that what else the machine does falls on all of them.

A ratio is of two neighbours in time.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

Rates = dict[str, list[float]]


def in_turns(contestants: Mapping[str, Callable[[], int]], repeats: int, seconds: float) -> Rates:
    """Items a second of each contestant, `repeats` times in turns. A contestant does some items and says how many."""
    for work in contestants.values():
        work()  # imports, caches, compilation
    rates: Rates = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, work in contestants.items():
            done, passed, begin = 0, 0.0, time.perf_counter()
            while not done or passed < seconds:
                done += work()
                passed = time.perf_counter() - begin
            rates[name].append(done / passed)
    return rates


@contextmanager
def one_core() -> Iterator[None]:
    """Everything inside runs on a single core, also what starts threads; where the system cannot do that, as it likes."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median and, in brackets, smallest and largest."""
    low, middle, high = (f"{x:,.{digits}f}" for x in (min(values), float(np.median(values)), max(values)))
    return f"{middle} ({low}–{high})"


def ratios(rates: Rates, ours: str, other: str, digits: int = 2) -> str:
    """How many times as fast `ours` is as another contestant, turn by turn."""
    return spread([a / b for a, b in zip(rates[ours], rates[other], strict=True)], digits)


def told(row: list[Any]) -> list[Any]:
    """A row of a table, said as soon as it is there: what is cut short has not been for nothing."""
    print(" | ".join(map(str, row)), file=sys.stderr, flush=True)
    return row
