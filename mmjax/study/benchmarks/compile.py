"""How long a step takes to become a program, and how large it is: layers one by one against one that is scanned."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from mmjax.config import changed
from mmjax.study.ahead import lowered, planned
from mmjax.study.benchmarks.timing import told
from mmjax.study.document import table

CONFIG, DEPTHS = "clip_vit_b32", (12, 24, 48)


def tables(load: Callable[[str], Any], depths: Sequence[int]) -> dict[str, str]:
    """{"compile": the table}, of both towers with so many layers, by default 12, 24 and 48."""
    rows = []
    for depth in depths or DEPTHS:
        for scan in (False, True):
            with kept():
                first, size = timed(load, depth, scan)
                again, _ = timed(load, depth, scan)
            seconds = [f"{x:.1f}" for x in (*first, sum(again))]
            rows.append(told([depth, "scanned" if scan else "one by one", *(f"{n:,}" for n in size), *seconds]))
    head = ["layers of each tower", "as", "lines of StableHLO", "instructions compiled", "traced, s", "compiled, s", "second start, s"]
    return {"compile": table(head, rows, left=2)}


def timed(load: Callable[[str], Any], depth: int, scan: bool) -> tuple[list[float], list[int]]:
    """Seconds to trace and to compile the step, and the lines and instructions that it is."""
    change = {
        f"model.encoders.{tower}.{key}": value for tower in ("image", "text") for key, value in {"depth": depth, "scan": scan}.items()
    }
    parts = planned(changed(load(CONFIG), change, {"data.batch_size": 64}), {}, jax.devices()[:1])
    jax.clear_caches()
    begin = time.perf_counter()
    program = lowered(parts)[0]
    between = time.perf_counter()
    done = program.compile()
    seconds = [between - begin, time.perf_counter() - between]
    return seconds, [program.as_text().count("\n"), (done.as_text() or "").count(" = ")]


@contextmanager
def kept() -> Iterator[None]:
    """Compiled programs are kept in an empty folder, from which a second start takes them."""
    from jax.experimental.compilation_cache import compilation_cache

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for name, value in zip(names, (folder, 0.0, True), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
