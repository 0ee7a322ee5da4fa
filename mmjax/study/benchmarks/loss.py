"""The contrastive loss with its gradient: dense, in chunks, around a ring, and open_clip's; time and memory by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from mmjax.config import UserError, build
from mmjax.contract import MESH_AXES, Context
from mmjax.study.benchmarks import peers
from mmjax.study.benchmarks.timing import in_turns, ratios, spread, told
from mmjax.study.document import table

WIDTH = 512
ON_CPU, ON_GPU = (1_024, 2_048, 4_096, 8_192, 16_384, 32_768), (1_024, 4_096, 16_384, 32_768, 65_536, 131_072, 262_144)
DENSE = {"cpu": 16_384, "gpu": 32_768}  # rows above which all logits at once, several times, are left out
MIB = 2**20


def tables(sizes: Sequence[int], repeats: int, seconds: float) -> dict[str, str]:
    """{"loss": the table}, for batches of so many rows, by default those that fit the device."""
    rows, notes = [], []
    on_gpu = jax.default_backend() == "gpu"
    for size in sizes or (ON_GPU if on_gpu else ON_CPU):
        some, said = _of(size, repeats, seconds)
        rows += some
        notes += said
    head = ["batch", "loss", "ms", "temporary memory, MiB", "times its products alone"]
    return {"loss": table(head, rows, left=2) + "".join(f"\n{note}\n" for note in dict.fromkeys(notes))}


def _of(size: int, repeats: int, seconds: float) -> tuple[list, list[str]]:
    sides = _sides(size)
    works, memory, notes, dense = {}, {}, [], size <= DENSE.get(jax.default_backend(), 32_768)
    for way in ("dense", "chunked", "ring"):
        if way != "dense" or dense:
            works[f"`{way}`"], memory[f"`{way}`"] = ours(way, sides)
    if dense:
        try:
            works["open_clip, eager"] = peers.clip_loss(*map(np.array, sides))
        except UserError as error:
            notes.append(str(error))
    works["its products alone"], memory["its products alone"] = products(sides)
    rates = in_turns(works, repeats, seconds)
    rows = []
    for name, values in rates.items():
        held = f"{memory[name] / MIB:,.1f}" if name in memory else ""
        beside = ratios(rates, "its products alone", name) if name != "its products alone" else ""
        rows.append(told([f"{size:,}", name, spread([1e3 / rate for rate in values], 1), held, beside]))
    return rows, notes


def _sides(size: int) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0))
    return [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (jax.random.normal(key, (size, WIDTH)) for key in keys)]


def loss_of(way: str, size: int) -> tuple[Any, Any]:
    """`value_and_grad(params, sides)` of our loss, and the mesh on which it is called, of one device."""
    objective: Any = build("objectives", {"name": "contrastive", "loss": "softmax", "pairs": [("image", "text")], "logits": way}, "loss")
    mesh = jax.make_mesh((1, 1, 1, 1), MESH_AXES, (AxisType.Auto,) * 4, devices=jax.devices()[:1])

    def loss(sides: Any) -> jax.Array:
        outputs = {f"{m}/z": z for m, z in zip(("image", "text"), sides, strict=True)}
        batch = {m: z for m, z in zip(("image", "text"), sides, strict=True)}
        params, aux = objective.init(jax.random.key(0), batch, outputs)
        ctx = Context(params, aux, jnp.int32(0), jax.random.key(1), lambda *_, **__: {})
        return jnp.asarray(sum(objective(ctx, outputs, batch).terms.values()))

    return jax.value_and_grad(loss), mesh


def ours(way: str, sides: Sequence[jax.Array]) -> tuple[Any, int]:
    """What computes our loss and its gradient by both sides once, and the bytes of its temporary arrays."""
    gradient, mesh = loss_of(way, len(sides[0]))
    with jax.set_mesh(mesh):
        return _compiled(gradient, tuple(sides))


def products(sides: Sequence[jax.Array], chunk: int = 1_024) -> tuple[Any, int]:
    """The matrix products that the loss and its gradient cannot do without, in chunks of rows: the logits, and two times as much."""

    def all_of(sides: Any) -> Any:
        image, text = sides
        size = min(chunk, len(image))

        def one(carry: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = rows @ text.T
            return carry + logits.T @ rows, logits @ text

        return jax.lax.scan(one, jnp.zeros_like(text), image.reshape(-1, size, image.shape[1]))

    return _compiled(all_of, tuple(sides))


def _compiled(fn: Any, sides: Any) -> tuple[Any, int]:
    program = jax.jit(fn).lower(sides).compile()

    def work() -> int:
        jax.block_until_ready(program(sides))
        return 1

    memory: Any = program.memory_analysis()
    return work, memory.temp_size_in_bytes
