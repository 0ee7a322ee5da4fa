"""The names and shapes that arrays carry from data to loss, and what evaluators hand to reports.

A batch is a flat `dict[str, Array]` with a leading axis B. A stream is named by its kind, or `kind_suffix` for a
second one of that kind (`image_depth`, `text_answer`). Beside a stream `<m>` may stand

    <m>/valid    bool  [B, T]  positions that are real
    <m>/present  bool  [B]     whether the example has the stream at all
    <m>/key      int32 [B]     equal keys are the same item, in every stream: positives of each other
    <m>/pooled   float [B, D]  with it, `<m>` are the tokens [B, N, D] of an encoding, and no encoder is run

and what is left out holds everywhere. Targets are streams, too, named and possibly absent like the others: `label`,
`label_group`, `tags`, `value_arousal`. No model reads them. `_mask` (bool [B]) marks the real rows of a padded evaluation batch.
What is absent must not matter: whatever stands in an absent stream or an invalid position, outputs and gradients
are the same, for that row and for all others.
"""

from __future__ import annotations

import base64
import io
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

# What a stream's arrays are: uint8 images on the host are float in [-1, 1] in the model, text is token ids.
KINDS = {
    "image": "[B, H, W, C] uint8 on the host, float in [-1, 1] in the model",
    "text": "[B, L] int32 token ids",
    "audio": "[B, S] waveform at a stated rate, or [B, T, F]",
    "video": "[B, T, H, W, C]",
    "series": "[B, T, C]",
    "tabular": "[B, F]",
    "points": "[B, P, C]",
}
TARGETS = {
    "label": "[B] int32, the place among the source's classes",
    "tags": "[B, C] bool, which of the source's classes hold",
    "value": "[B] or [B, D] float32",
}
MASK = "_mask"

# Mesh axes, the slowest links first. A batch's rows are split over BATCH_AXES, its tokens over `sequence`, heads and hidden
# units over `tensor`; parameters over `fsdp` and `tensor`.
MESH_AXES = ("data", "fsdp", "sequence", "tensor")
BATCH_AXES = ("data", "fsdp")

Batch = Mapping[str, Any]
Outputs = dict[str, Any]


def kind(stream: str) -> str:
    """The kind of a stream: `image_depth` is an `image`. Raises `ValueError` for a name of no known kind."""
    head = stream.split("_", 1)[0]
    if head not in KINDS and head not in TARGETS:
        known = ", ".join((*KINDS, *TARGETS))
        raise ValueError(f"{stream!r} is no stream: a name begins with one of {known}, as in 'image' or 'image_depth'.")
    return head


def streams(batch: Batch) -> list[str]:
    """The modalities that a batch carries, sorted; targets such as `label` and everything behind a `/` are none."""
    return sorted(name for name in batch if "/" not in name and name.split("_", 1)[0] in KINDS)


def present(batch: Batch, stream: str) -> Bool[Array, " B"]:
    """Which rows have `stream`: its `/present`, and only rows that `_mask` calls real."""
    rows = batch[stream].shape[0]
    here = batch.get(f"{stream}/present", jnp.ones(rows, bool))
    return here & batch[MASK] if MASK in batch else here


def key(batch: Batch, stream: str) -> Int[Array, " B"]:
    """The item that each row of `stream` shows; without keys every row is an item of its own."""
    return batch.get(f"{stream}/key", jnp.arange(batch[stream].shape[0], dtype=jnp.int32))


class Encoding(NamedTuple):
    """What an encoder or a fusion makes of a stream. Widths may differ between modalities."""

    tokens: Float[Array, "B N D"]
    valid: Bool[Array, "B N"]
    pooled: Float[Array, "B D"]
    present: Bool[Array, " B"]
    time: Float[Array, "B N"] | None = None  # seconds
    stages: tuple[Array, ...] = ()  # lower features, lowest first
    aux: Mapping[str, Float[Array, " B"]] = {}  # losses that a module brings

    @classmethod
    def from_pooled(cls, pooled: Float[Array, "B D"], present: Bool[Array, " B"]) -> Encoding:
        """An encoding of one token, the pooled vector itself."""
        return cls(tokens=pooled[:, None, :], valid=present[:, None], pooled=pooled, present=present)


class Loss(NamedTuple):
    """What an objective returns."""

    terms: Mapping[str, Float[Array, ""]]  # they add up
    weight: Float[Array, ""]  # how many examples the terms are means over; means over batches are weighted by it
    metrics: Mapping[str, Float[Array, ""]] = {}
    aux: Any = ()  # the objective's next own state


class Context(NamedTuple):
    """What an objective sees besides outputs and batch."""

    params: Any  # its own parameters
    aux: Any  # its own state
    step: Int[Array, ""]
    key: PRNGKeyArray
    forward: Callable[..., Outputs]  # forward(batch, params=..., train=...): any further pass of the model


class State(NamedTuple):
    """All that training carries from one step to the next."""

    step: Int[Array, ""]
    params: Mapping[str, Any]  # "model", and one entry per objective with parameters of its own
    stats: Mapping[str, Any]  # the model's collections that are not trained, such as batch statistics
    aux: Mapping[str, Any]  # {objective: its own state}
    opt: Mapping[str, Any]  # {phase: optimizer state}
    ema: Any  # averaged parameters, or ()
    fitted: Mapping[str, Any]  # arrays fitted on training examples before step 0
    key: PRNGKeyArray  # constant: every use folds in the step and a name


def fold_name(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    """A key of its own for every name, the same in every process and on every day."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


# What evaluators yield besides numbers: plain data that a report draws.


class Item(NamedTuple):
    """One thing to show: `content` is PNG bytes for an `image` and a `series`, which is drawn, an encoded clip (MP3, Ogg, FLAC,
    WAV) for an `audio`, a string for a `text`.
    """

    kind: str
    content: bytes | str
    caption: str = ""
    correct: bool | None = None
    score: float | None = None
    pieces: list[tuple[int, str]] | None = None  # of a text its tokens: id, and what it stands for


class Gallery(NamedTuple):
    """Queries and, for each, what was retrieved, best first."""

    queries: list[Item]
    results: list[list[Item]]


class Sheet(NamedTuple):
    """Rows of items side by side: the draws of one example, or the members of one group."""

    titles: list[str]
    rows: list[list[Item]]
    note: str = ""


class Bars(NamedTuple):
    """Groups of bars: `series[name][i]` belongs to `labels[i]`."""

    labels: list[str]
    series: dict[str, list[float]]
    ylabel: str = ""


class Matrix(NamedTuple):
    """A picture of numbers, `values[i][j]` at `rows[i]`, `columns[j]`."""

    values: list[list[float]]
    rows: list[str]
    columns: list[str]
    label: str = ""


class Scatter(NamedTuple):
    """Points in a plane, coloured once by each of `groups`: `groups[name][i]` is the group of point i, None where it has none."""

    x: list[float]
    y: list[float]
    groups: dict[str, list[str | None]]
    note: str = ""


class Table(NamedTuple):
    """Rows of strings and numbers."""

    columns: list[str]
    rows: list[list[Any]]
    note: str = ""


class Intervals(NamedTuple):
    """Names, each with a value and half the width of the interval around it; `reference` is what they are compared with."""

    labels: list[str]
    values: list[float]
    halves: list[float]
    xlabel: str
    reference: float | None = None


class Lines(NamedTuple):
    """Curves over 0, 1, 2, ...: `series[name][x]`."""

    series: dict[str, list[float]]
    xlabel: str
    ylabel: str


class Plane(NamedTuple):
    """Named points, `x` on a logarithmic scale if `log`."""

    labels: list[str]
    x: list[float]
    y: list[float]
    xlabel: str
    ylabel: str
    log: bool = False


class Reliability(NamedTuple):
    """How often what is said with some confidence is right: `bins[name][i]` is (from, to, examples, mean confidence, share that is
    right) of a stretch of confidences, the last two 0 where it has no examples.
    """

    bins: dict[str, list[tuple[float, float, int, float, float]]]
    note: str = ""


class Arrays(NamedTuple):
    """Arrays by name, to compute with: written as .npz, and no report shows them."""

    arrays: dict[str, np.ndarray]


Artifact = Gallery | Sheet | Bars | Matrix | Scatter | Table | Intervals | Lines | Plane | Reliability | Arrays
_ARTIFACTS = {cls.__name__.lower(): cls for cls in (Gallery, Sheet, Bars, Matrix, Scatter, Table, Intervals, Lines, Plane, Reliability)}


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: a crash or a full disk leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def save_artifact(path: Path, artifact: Artifact) -> None:
    """Writes an artifact as JSON, pictures and clips inside as base64; arrays beside it as .npz."""
    if isinstance(artifact, Arrays):
        out = io.BytesIO()
        np.savez_compressed(out, **artifact.arrays)  # pyright: ignore[reportArgumentType]: its flag has a name, too
        write_atomic(path.with_suffix(".npz"), out.getvalue())
        return

    def plain(value):
        if isinstance(value, Item):
            content = {"base64": base64.b64encode(value.content).decode()} if isinstance(value.content, bytes) else value.content
            return {**value._asdict(), "content": content}
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value.item() if isinstance(value, np.generic) else value

    fields = {name: plain(value) for name, value in artifact._asdict().items()}
    write_atomic(path, json.dumps({"artifact": type(artifact).__name__.lower(), **fields}))


def load_artifact(path: Path) -> Artifact:
    """Reads what `save_artifact` wrote."""

    def item(fields):
        content, pieces = fields["content"], fields.get("pieces")
        content = base64.b64decode(content["base64"]) if isinstance(content, dict) else content
        return Item(**{**fields, "content": content, "pieces": pieces and [(id, piece) for id, piece in pieces]})

    fields = json.loads(path.read_text(encoding="utf-8"))
    cls = _ARTIFACTS[fields.pop("artifact")]
    if cls is Gallery:
        fields = {"queries": [item(q) for q in fields["queries"]], "results": [[item(r) for r in row] for row in fields["results"]]}
    if cls is Sheet:
        fields["rows"] = [[item(i) for i in row] for row in fields["rows"]]
    return cls(**fields)
