"""How fast a run is beside what its devices can do: operations by XLA's count, peaks as published or measured, memory in use."""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.train.chips import CHIPS

OURS = ("step", "outputs", "losses")  # the programs of `train/step.py`


def step_flops(step: Any, *args: Any) -> float:
    """Operations of one call of a jitted function on one device, by XLA's count.

    All of the step counts, what rematerialisation computes again too. XLA counts the inside of a loop once; what its products and
    convolutions repeat is added. Unknown to it are the insides of custom calls, such as cuDNN's attention. Costs nothing where the
    function was called with such arguments before.
    """
    traced = step.trace(*args)
    compiled = traced.lower().compile()
    return flops_of(compiled, traced.jaxpr)


def flops_of(compiled: jax.stages.Compiled, jaxpr: Any) -> float:
    """The same, of a compiled program and the jaxpr that it was made of."""
    devices = {d for sharding in jax.tree.leaves(compiled.output_shardings) for d in sharding.device_set}
    repeated = products(jaxpr) - products(jaxpr, loops=False)
    return float((compiled.cost_analysis() or {}).get("flops", 0.0)) + repeated / max(len(devices), 1)


def products(jaxpr: Any, loops: bool = True) -> float:
    """Operations of a jaxpr's matrix products and convolutions, on all devices; of each loop's inside once, without `loops`."""
    total = 0.0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        out = math.prod(eqn.outvars[0].aval.shape) if eqn.outvars else 0
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += 2 * out * math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            total += 2 * out * math.prod(kernel) / kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        inner = [products(sub, loops) for sub in jaxprs_in_params(eqn.params)]
        if eqn.primitive.name == "cond":
            total += max(inner, default=0.0)
        elif eqn.primitive.name == "scan":
            total += sum(inner) * (eqn.params["length"] if loops else 1)
        else:
            total += sum(inner) * (eqn.params["mesh"].size if eqn.primitive.name == "shard_map" else 1)
    return total


@cache
def peak_flops() -> float:
    """What one of this process's devices does in a second at the most: as published for its kind, or measured by a large product.

    Published figures are of dense bfloat16. What is measured is the best of several products of 1,024 x 1,024 (float32 on a CPU), on
    devices as they are now: other work on the machine makes it less.
    """
    device = jax.local_devices()[0]
    found = [chip for chip in CHIPS.values() if chip.platform == device.platform and chip.kind in device.device_kind]
    if found:
        return max(found, key=lambda chip: len(chip.kind)).flops
    side, dtype = (1_024, jnp.float32) if device.platform == "cpu" else (8_192, jnp.bfloat16)
    return matmul_flops(side, dtype)


def matmul_flops(side: int, dtype: Any, repeats: int = 8) -> float:
    """Operations a second of the fastest of several square products on this process's first device."""
    alone, best = Mesh(np.array(jax.local_devices()[:1]), "alone"), math.inf  # whatever mesh a run is on
    with jax.set_mesh(alone):
        x = jax.device_put(jnp.ones((side, side), dtype), NamedSharding(alone, PartitionSpec()))
        product = jax.jit(lambda x: x @ x).lower(x).compile()
        for _ in range(repeats):
            begin = time.perf_counter()
            product(x).block_until_ready()
            best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def memory_in_use() -> int:
    """The most bytes that one of this process's devices has held; without memory of their own, the process itself."""
    stats = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    if stats:
        return max(s.get("peak_bytes_in_use", s.get("bytes_in_use", 0)) for s in stats)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1_024)


NEW = "new"


class _Explained(logging.Filter):
    """Keeps what JAX says of a function that it traces again, and lets nobody else see it."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, str] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text.startswith("TRACING CACHE MISS"):
            lines = [line.strip() for line in text.splitlines()]
            changed = [line.removeprefix("* ") for line in lines if line.startswith("* ")]
            if "never seen function:" in lines:
                self.reasons[lines[lines.index("never seen function:") + 1].split()[0]] = NEW
            else:
                name = next((line.split()[1] for line in lines if line.startswith("for ")), "")
                self.reasons[name] = "; ".join(changed) or lines[-1]
        return not text.startswith(("TRACING CACHE MISS", "PERSISTENT COMPILATION CACHE MISS", "Not writing persistent cache entry"))


@contextmanager
def compiled_again(say: Callable[[str], None]) -> Iterator[None]:
    """While it lasts, says which of our programs is compiled that was before, for how long and why."""
    explained = _Explained()
    loggers = [logging.getLogger(f"jax._src.{name}") for name in ("interpreters.partial_eval", "compiler", "compilation_cache")]

    def listen(event: str, duration_secs: float, **about: Any) -> None:
        name = str(about.get("fun_name", "")).removeprefix("jit(").removesuffix(")").removeprefix("jit_")
        if event.endswith("backend_compile_duration") and name in OURS:
            why = explained.reasons.pop(name, "its arguments lie on the devices in another way")
            if why != NEW:
                say(f"{name} was compiled again, which took {duration_secs:.1f} s: {why}")

    for logger in loggers:
        logger.addFilter(explained)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with jax.explain_cache_misses(True):
            yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
        for logger in loggers:
            logger.removeFilter(explained)
