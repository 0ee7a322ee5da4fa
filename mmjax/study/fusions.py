"""What each fusion is, takes and costs, beside concatenation."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from mmjax import config
from mmjax.contract import Encoding
from mmjax.study.document import table

ROWS, WIDTH, STAGES = 8, 128, 4
TOKENS = {"audio": 50, "image": 49, "text": 32}
SIZE = f"{' + '.join(map(str, TOKENS.values()))} tokens of {', '.join(TOKENS)}, all {WIDTH} wide, from encoders of {STAGES} stages"


def encodings() -> dict[str, Encoding]:
    """Shapes of three modalities' encodings."""

    def shape(*sizes: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((ROWS, *sizes), dtype)

    return {
        m: Encoding(
            shape(n, WIDTH), shape(n, dtype=bool), shape(WIDTH), shape(dtype=bool), stages=tuple(shape(n, WIDTH) for _ in range(STAGES))
        )
        for m, n in TOKENS.items()
    }


def cost(fusion: Any) -> tuple[int, float]:
    """Parameters, and the floating-point operations of an example's forward pass as XLA counts them."""
    x = encodings()
    variables = jax.eval_shape(lambda x: fusion.init(jax.random.key(0), x, train=False), x)
    compiled = jax.jit(lambda v, x: fusion.apply(v, x, train=False).pooled).lower(variables, x).compile()
    counted: Any = compiled.cost_analysis()
    return sum(leaf.size for leaf in jax.tree.leaves(variables)), counted["flops"] / ROWS


def described(cls: Any) -> str:
    """The first paragraph's first line: the method's name and its paper, or what it does."""
    return (inspect.getdoc(sys.modules[cls.__module__]) or "").splitlines()[0].rstrip(".")


def lines() -> Iterator[list[Any]]:
    """Name, description, numbers of modalities, parameters, and FLOPs relative to concatenation, of every fusion by name."""
    base = cost(config.resolve("fusion", "concat")())
    for name in config.names("fusion"):
        cls = config.resolve("fusion", name)
        parameters, flops = cost(cls())
        counts = ", ".join(map(str, getattr(cls, "counts", ()))) or "any"
        yield [f"[`{name}`](../mmjax/fusion/{name}.py)", described(cls), counts, f"{parameters:,}", f"{flops / base[1]:,.1f}"]


def markdown() -> str:
    """The table, and at what size it was measured."""
    head = ["fusion", "what it is", "modalities", "parameters", "FLOPs, concat = 1"]
    return f"{table(head, lines(), left=3)}\nEach with its default arguments, on {SIZE}.\n"
