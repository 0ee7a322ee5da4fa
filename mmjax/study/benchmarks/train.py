"""A training step of ours beside PyTorch's: the same model, batch, precision and device, in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.config import changed
from mmjax.contract import BATCH_AXES, kind
from mmjax.study.ahead import planned
from mmjax.study.benchmarks import peers
from mmjax.study.benchmarks.peers import STEPS, Contestant
from mmjax.study.benchmarks.timing import in_turns, ratios, spread, told
from mmjax.study.cost import cost_of
from mmjax.study.document import table
from mmjax.train.chips import GIB
from mmjax.train.speed import matmul_flops

QUICKSTART = "align_openmoji"
# The config, and open_clip's name of the same model.
MODELS = {
    "quickstart": (QUICKSTART, ""),
    "B/32": ("clip_vit_b32", "ViT-B-32-quickgelu"),
    "B/16": ("clip_vit_b16", "ViT-B-16-quickgelu"),
    "L/14": ("clip_vit_l14", "ViT-L-14-quickgelu"),
}
ON_CPU, ON_GPU = {"quickstart": 128, "B/32": 16}, {"B/32": 4_096, "B/16": 1_024, "L/14": 512}


def tables(load: Callable[[str], Any], models: Sequence[str], batch_size: int | None, repeats: int, seconds: float) -> dict[str, str]:
    """{"train": the table}; `models` of MODELS, by default those that fit the device."""
    on_gpu = jax.default_backend() == "gpu"
    sizes = ON_GPU if on_gpu else ON_CPU
    peak = matmul_flops(8_192, "bfloat16") if on_gpu else matmul_flops(2_048, "float32")
    rows, notes = [], [f"A matrix product alone does {peak / 1e12:,.3g} TFLOP/s here, which is 100 % in this table."]
    for model in models or sizes:
        some, said = compared(load, model, batch_size or sizes.get(model, 32), on_gpu, peak, repeats, seconds)
        rows += some
        notes += said
    head = ["model", "batch", "step of", "examples/s", "of the product's rate", "memory, GiB", "ours is times as fast"]
    return {"train": table(head, rows, left=1) + "".join(f"\n{note}\n" for note in dict.fromkeys(notes))}


def compared(
    load: Callable[[str], Any], model: str, batch_size: int, half: bool, peak: float, repeats: int, seconds: float
) -> tuple[list, list[str]]:
    """Rows of the table, and what is to be said."""
    name, theirs = MODELS[model]
    batch = made_up(load(name), batch_size)
    contestants, notes = {}, []
    variants: list[dict[str, Any]] = [{}] if model == "quickstart" or not half else [{}, {"remat": True}]
    flops = math.nan
    for variant in variants:
        label = "ours" + "".join(f", {key}" for key in variant)
        contestants[label], counted = ours(load(name), batch, half, variant)
        flops = counted if math.isnan(flops) else flops  # rematerialisation does more, and trains no more
    for compiled in (False, True):
        label = "PyTorch, " + ("torch.compile" if compiled else "eager")
        try:
            contestants[label] = peers.quickstart(batch, compiled) if not theirs else peers.clip(theirs, batch, half, compiled)
        except Exception as error:  # no compiler, no memory: the others are still of interest
            notes.append(f"{model}, {label}: {type(error).__name__}: {str(error).splitlines()[0][:160]}")
    rates = in_turns({label: c.work for label, c in contestants.items()}, repeats, seconds)
    rows = []
    for label, c in contestants.items():
        share = spread([rate / batch_size * flops / peak * 100 for rate in rates[label]], 1) + " %"
        memory = "" if math.isnan(c.memory) else f"{c.memory / GIB:.1f}"
        beside = "" if label == "ours" else ratios(rates, "ours", label)
        rows.append(told([model, f"{batch_size:,}", label, spread(rates[label], 1), share, memory, beside]))
    counts = {c.parameters for c in contestants.values()}
    if len(counts) > 1:
        notes.append(
            f"{model}: trained parameters are " + ", ".join(f"{c.parameters:,} ({label})" for label, c in contestants.items()) + "."
        )
    return rows, notes


def ours(config: Any, batch: Mapping[str, np.ndarray], half: bool, towers: Mapping[str, Any]) -> tuple[Contestant, float]:
    """Our step on one device, without data, and its operations; `towers` changes the encoders."""
    encoders = [m for m, node in config["model"]["encoders"].items() if node["name"] in ("vit", "text_transformer")]
    values = {"dtype": "bfloat16" if half else "float32", **towers}
    changes = {f"model.encoders.{m}.{key}": value for m in encoders for key, value in values.items()}
    whole = {"data.batch_size": len(batch["image"]), "objectives.contrastive.logits": "dense", "init_from": {}}
    parts = planned(changed(config, changes, whole), {}, jax.devices()[:1])
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        placed = jax.device_put(dict(batch), NamedSharding(parts.mesh, PartitionSpec(BATCH_AXES)))
        state, step = parts.init(shapes, placed), parts.step(shapes)
        state, _ = step(state, placed)
        costs = cost_of(step.trace(state, placed), state.params, parts)
    held = [state]

    def work() -> int:
        with jax.set_mesh(parts.mesh):
            for _ in range(STEPS):
                held[0], metrics = step(held[0], placed)
            jax.block_until_ready(metrics)
        return STEPS * len(batch["image"])

    return Contestant(work, int(costs["trained"]), costs["peak_bytes"]), costs["step_flops"]


def made_up(config: Any, rows: int) -> dict[str, np.ndarray]:
    """A batch of noise and of words of random letters, as the config's step reads it."""
    parts = planned(changed(config, {"data.batch_size": rows}), {}, jax.devices()[:1])
    rng, batch = np.random.default_rng(0), {}
    for name, (shape, dtype) in parts.batch_shapes().items():
        stream, _, part = name.partition("/")
        if part == "present":
            batch[name] = np.ones(shape, bool)
        elif part == "key":
            batch[name] = np.arange(rows, dtype=np.int32)
        elif part == "valid":
            batch[name] = np.arange(shape[1]) < rng.integers(shape[1] // 4, shape[1] + 1, rows)[:, None]
        elif kind(stream) == "text":
            ids = rng.integers(100, 126, shape).astype(dtype)
            batch[name] = np.where(rng.random(shape) < 0.15, 223, ids).astype(dtype)  # the space of bytes
        else:
            batch[name] = rng.integers(0, 256, shape).astype(dtype)
    return batch
