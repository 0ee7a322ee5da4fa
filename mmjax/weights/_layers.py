"""What a family is: a table of its layers, theirs and ours, and how the arrays of each are turned.

A row is (their name, our name, how); `{}` stands for a block's number. What no row names keeps its own name, so that
whoever loads it says that it is unexpected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from mmjax.config import DataError

Arrays = Mapping[str, np.ndarray]
How = Callable[[str, np.ndarray], dict[str, np.ndarray]]  # (weight or bias, the array) -> {what it is called here: array}


class Row(NamedTuple):
    """A layer whose arrays are `<theirs>.weight` and so on or, if `whole`, one array called `<theirs>`."""

    theirs: str
    ours: str
    how: How
    whole: bool = False


def linear(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """PyTorch's [out, in] to [in, out]."""
    return {"kernel": x.T} if name == "weight" else {"bias": x}


def conv1d(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """GPT-2's linear layers, which lie the other way round."""
    return {"kernel": x} if name == "weight" else {"bias": x}


def conv(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """[out, in, ...] to [..., in, out]."""
    return {"kernel": np.moveaxis(x, (0, 1), (-1, -2))} if name == "weight" else {"bias": x}


def patches(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """A convolution of which no two windows overlap to a dense layer on the pixels of a patch."""
    return {"kernel": rearrange(x, "o c p q -> (p q c) o")} if name == "weight" else {"bias": x}


def norm(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """A layer norm."""
    return {"scale" if name in ("weight", "gamma") else "bias": x}


def embedding(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """A table of ids."""
    return {"embedding": x}


# Of PyTorch's attention: matrices for a context that is of another width than the queries, and a key and value that are always seen.
APART = {f"{part[0]}_proj_weight": f"{part}/kernel" for part in ("query", "key", "value")}
APART |= {f"bias_{part[0]}": f"bias_{part}" for part in ("key", "value")}


def packed(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """Query, key and value in one linear layer, or in PyTorch's `in_proj_...`; what else its attention has of its own."""
    if name in APART:
        return {APART[name]: x.T if x.ndim == 2 else x}
    one = "weight" if name.endswith("weight") else "bias"
    return {
        f"{part}/{k}": y
        for part, piece in zip(("query", "key", "value"), np.split(x, 3), strict=True)
        for k, y in linear(one, piece).items()
    }


def packed_conv1d(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """The same in GPT-2's layout."""
    parts = np.split(x, 3, axis=-1)
    return {f"{part}/{k}": y for part, piece in zip(("query", "key", "value"), parts, strict=True) for k, y in conv1d(name, piece).items()}


def rows(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """[..., D] to [1, N, D]."""
    return {"": x.reshape(1, -1, x.shape[-1])}


def transposed(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """A bare matrix [out, in] to a layer's kernel."""
    return {"kernel": x.T}


def plain(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """A bare matrix that lies as ours do."""
    return {"kernel": x}


def blocks(theirs: str, parts: Iterable[tuple[str, str, How]], ours: str = "transformer") -> list[Row]:
    """The rows of every block, called `<theirs>.{}.<part>` there."""
    return [Row(f"{theirs}.{{}}.{name}", f"{ours}/block_{{:02d}}/{here}", how) for name, here, how in parts]


def converted(arrays: Arrays, table: Iterable[Row], unused: str = "") -> dict[str, np.ndarray]:
    """{our path: array} of all arrays but those whose names match `unused`."""
    patterns = [(re.compile(re.escape(row.theirs).replace(r"\{\}", r"(\d+)")), row) for row in table]
    out: dict[str, np.ndarray] = {}
    for key, x in arrays.items():
        if re.fullmatch(unused, key):
            continue
        layer, _, name = key.rpartition(".")
        found = ((row, m) for pattern, row in patterns if (m := pattern.fullmatch(key if row.whole else layer)))
        row, match = next(found, (None, None))
        if row is None or match is None:
            out[key] = x
            continue
        path = row.ours.format(*map(int, match.groups()))
        out |= {f"{path}/{own}".strip("/"): y for own, y in row.how(name, x).items()}
    return out


def variables(found: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """Parameters, and the running statistics of batch norms, as `load` gives them."""
    stats = {name: x for name, x in found.items() if name.endswith(("/mean", "/var"))}
    return {"params": {name: x for name, x in found.items() if name not in stats}, "batch_stats": stats}


def part_kind(part: str) -> str:
    """What a part of an aligner is, by its stream's name: "image" of `image_view2`, "image_projection" of its projection."""
    return part.split("_", 1)[0] + ("_projection" if part.endswith("_projection") else "")


def below(arrays: Arrays, *prefixes: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with a prefix, without it: of the first that any begins with; "" is all."""
    for prefix in prefixes:
        if found := {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}:
            return found
    return {}


def resized(positions: np.ndarray, count: int, extra: int, where: str) -> np.ndarray:
    """Learned positions [1, extra + N, D] of a square grid for another number of patches: bicubic, antialiased where it shrinks.

    Raises:
        DataError: one of the grids is no square.
    """
    import jax

    had, wanted = positions.shape[1] - extra, count - extra
    if had == wanted:
        return positions
    old, new = round(had**0.5), round(wanted**0.5)
    if old * old != had or new * new != wanted:
        raise DataError(f"{where}: {had} positions do not become {wanted}: only square grids are resized.")
    grid = positions[:, extra:].astype(np.float32).reshape(1, old, old, -1)
    grid = np.asarray(jax.image.resize(grid, (1, new, new, grid.shape[-1]), "bicubic"))
    return np.concatenate([positions[:, :extra], grid.reshape(1, wanted, -1)], axis=1)


def tower(arrays: Arrays, block: str, width: int, mlp: str, heads: int | None) -> dict[str, Any]:
    """The sizes of a transformer that its arrays show: `block` and `mlp` are regexes of a block's number and of its first MLP
    layer's weight. How many heads there are they do not show: 64 wide each where nobody says.
    """
    numbers = {int(m[1]) for name in arrays if (m := re.match(block, name))}
    hidden = next(x.shape[0] for name, x in arrays.items() if re.fullmatch(mlp, name))
    return {"width": width, "depth": len(numbers), "heads": heads or max(1, width // 64), "mlp_ratio": hidden / width}


def scaled(arrays: Mapping[str, np.ndarray], scales: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Scales of residuals multiplied into the layers before them: {regex of a scale's name: its layer, by the regex's group}."""
    out = dict(arrays)
    for key, scale in arrays.items():
        for regex, layer in scales.items():
            if m := re.fullmatch(regex, key):
                name = layer.format(m[1])
                out[f"{name}.weight"], out[f"{name}.bias"] = scale[:, None] * arrays[f"{name}.weight"], scale * arrays[f"{name}.bias"]
                del out[key]
    return out
