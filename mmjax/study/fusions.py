"""What each fusion is, takes and costs, beside concatenation."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmjax import config
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.study.document import table
from mmjax.train.speed import products, step_flops

ROWS, WIDTH, STAGES = 8, 128, 4
TOKENS = {"audio": 50, "image": 49, "text": 32}
SIZE = f"{' + '.join(map(str, TOKENS.values()))} tokens of {', '.join(TOKENS)}, all {WIDTH} wide, from encoders of {STAGES} stages"


LONG = (128, 512, 2_048, 8_192)  # tokens of each of two modalities
GROWING = ("early_transformer", "mult", "bottleneck", "perceiver", "linear_time")


def encodings(modalities: int = 3, tokens: Mapping[str, int] = TOKENS) -> dict[str, Encoding]:
    """Shapes of the first modalities' encodings."""

    def shape(*sizes: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((ROWS, *sizes), dtype)

    return {
        m: Encoding(
            shape(n, WIDTH), shape(n, dtype=bool), shape(WIDTH), shape(dtype=bool), stages=tuple(shape(n, WIDTH) for _ in range(STAGES))
        )
        for m, n in list(tokens.items())[:modalities]
    }


def cost(fusion: Any, modalities: int = 3) -> tuple[int, float]:
    """Parameters, and the floating-point operations of an example's forward pass as XLA counts them."""
    x = encodings(modalities)
    variables = jax.eval_shape(lambda x: fusion.init(jax.random.key(0), x, train=False), x)
    flops = step_flops(jax.jit(lambda v, x: fusion.apply(v, x, train=False).pooled), variables, x)
    return sum(leaf.size for leaf in jax.tree.leaves(variables)), flops / ROWS


def described(cls: Any) -> str:
    """The first paragraph's first line: the method's name and its paper, or what it does."""
    return (inspect.getdoc(sys.modules[cls.__module__]) or "").splitlines()[0].rstrip(".")


def said(cls: Any, what: str) -> str:
    """What a file's docstring says behind "Gaps:" or "Time:", up to the full stop; "" where it says nothing."""
    found = re.search(rf"\b{what}: ([^.]+)\.", " ".join((inspect.getdoc(sys.modules[cls.__module__]) or "").split()))
    return found[1] if found else ""


def lines() -> Iterator[list[Any]]:
    """Name, description, numbers of modalities, gaps, time, parameters, and FLOPs relative to concatenation, of every fusion by name.

    Behind a fusion stand its variants. One that takes no three modalities at its size is measured with the first two.
    """
    base = cost(config.resolve("fusion", "concat")())[1]
    for name in config.names("fusion"):
        cls = config.resolve("fusion", name)
        counts = ", ".join(map(str, getattr(cls, "counts", ()))) or "any"
        means = [described(cls), counts, said(cls, "Gaps"), said(cls, "Time")]
        yield [f"[`{name}`](../mmjax/fusion/{name}.py)", *means, *_costs(cls(), base)]
        for variant, options in getattr(cls, "variants", {}).items():
            yield [f"`{name}`, `variant={variant}`", "", "", "", "", *_costs(cls(**options), base)]


def _costs(fusion: Any, base: float) -> list[str]:
    try:
        (parameters, flops), note = cost(fusion), ""
    except ConfigError:
        (parameters, flops), note = cost(fusion, modalities=2), " (two)"
    return [f"{parameters:,}{note}", f"{flops / base:,.1f}{note}"]


def growth() -> str:
    """Operations of an example by how many tokens are fused, as lowered: what a compiler makes of them is no less."""
    rows = []
    for name in GROWING:
        cls = config.resolve("fusion", name)
        for label, options in ((f"`{name}`", {}), *((f"`{name}`, `variant={v}`", o) for v, o in getattr(cls, "variants", {}).items())):
            flops = [_of_length(cls(**options), n) for n in LONG]
            rows.append([label, *(f"{x / 1e9:,.2f}" for x in flops), f"{flops[-1] / flops[-2]:.1f}"])
    head = ["GFLOP an example", *(f"2 × {n:,} tokens" for n in LONG), "growth, last to last but one"]
    return table(head, rows)


def _of_length(fusion: Any, tokens: int) -> float:
    x = encodings(2, dict.fromkeys(("audio", "video"), tokens))
    variables = jax.eval_shape(lambda x: fusion.init(jax.random.key(0), x, train=False), x)
    traced = jax.jit(lambda v, x: fusion.apply(v, x, train=False).pooled).trace(variables, x)
    counted: Any = traced.lower().cost_analysis()
    return (counted["flops"] + products(traced.jaxpr) - products(traced.jaxpr, loops=False)) / ROWS


def markdown() -> str:
    """The table, at what size it was measured, and how long inputs grow."""
    head = ["fusion", "what it is", "modalities", "gaps", "time", "parameters", "FLOPs, concat = 1"]
    sizes = f"Each with its default arguments or those of a variant, on {SIZE}; (two): on the first two of them."
    long = f"For long inputs, four times as many tokens from column to column:\n\n{growth()}"
    return f"{table(head, lines(), left=5)}\n{sizes}\n\n{long}"
