"""The arithmetic of contrastive losses, with several positives a row and rows that do not count.

`softmax_loss` and `sigmoid_loss` take all logits at once. `blockwise_softmax` and `blockwise_sigmoid` take the embeddings and
make the logits block by block, once forward and once backward, for both directions: Milakov and Gimelshein, 2018, 'Online
normalizer calculation for softmax', algorithm 3, over blocks; Zhai et al., 2023, sec. 3.3, for the ring over devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from mmjax.contract import BATCH_AXES


def softmax_loss(
    logits: Float[Array, "A B"], positive: Bool[Array, "A B"], rows: Bool[Array, " A"], columns: Bool[Array, " B"]
) -> Float[Array, ""]:
    """Cross-entropy of every row that counts to the even distribution over its positives, averaged over these rows.

    One positive a row is InfoNCE (van den Oord et al., 2018, eq. 4); several are Khosla et al., 2020, eq. 2. Columns
    that do not count are not in the normalisation. A row without a positive among the columns does not count.
    """
    positive = positive & columns[None, :]
    count = positive.sum(axis=1).astype(logits.dtype)
    rows = rows & (count > 0)
    logits = jnp.where(columns[None, :], logits, -1e30)
    log_p = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)
    per_row = -jnp.where(positive, log_p, 0.0).sum(axis=1) / jnp.maximum(count, 1)
    return jnp.where(rows, per_row, 0.0).sum() / jnp.maximum(rows.sum().astype(logits.dtype), 1)


def sigmoid_loss(
    logits: Float[Array, "A B"], positive: Bool[Array, "A B"], rows: Bool[Array, " A"], columns: Bool[Array, " B"]
) -> Float[Array, ""]:
    """Binary cross-entropy of every pair, summed, per row that counts: Zhai et al., 2023, 'Sigmoid Loss', eq. 1 and algorithm 1."""
    pairs = rows[:, None] & columns[None, :]
    per_pair = -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
    return jnp.where(pairs, per_pair, 0.0).sum() / jnp.maximum(rows.sum().astype(logits.dtype), 1)


@jax.custom_vjp
def bounded_above(x: Float[Array, ""], limit: Float[Array, ""] | float) -> Float[Array, ""]:
    """min(x, limit), whose gradient at the limit can still lower `x`; the plain minimum would leave it stuck there."""
    return jnp.minimum(x, limit)


bounded_above.defvjp(
    lambda x, limit: (jnp.minimum(x, limit), x >= limit),
    lambda at_limit, g: (jnp.where(at_limit, jnp.maximum(g, 0.0), g), None),
)


class Side(NamedTuple):
    """One side of the pairs."""

    z: Float[Array, "A D"]
    key: Int[Array, " A"]  # equal keys are positives
    counts: Bool[Array, " A"]


class _Softmax(NamedTuple):
    """What the pairs seen so far say of each row's softmax. Of similarities: products with the scale round."""

    top: Float[Array, " A"]  # the largest similarity
    total: Float[Array, " A"]  # sum of exp(scale * (similarity - top))
    positive: Float[Array, " A"]  # sum of the positives' similarities
    count: Float[Array, " A"]  # of the positives

    @classmethod
    def empty(cls, side: Side) -> _Softmax:
        zero = jnp.zeros_like(side.z[:, 0])
        return cls(zero - 1e30, zero, zero, zero)

    @classmethod
    def of(cls, scale: Array, similarity: Array, pairs: Array, positive: Array, axis: int) -> _Softmax:
        top = jnp.where(pairs, similarity, -1e30).max(axis, keepdims=True)
        total = jnp.where(pairs, jnp.exp(scale * (similarity - top)), 0.0).sum(axis)
        count = positive.sum(axis).astype(similarity.dtype)
        return cls(top.squeeze(axis), total, jnp.where(positive, similarity, 0.0).sum(axis), count)

    def merge(self, other: _Softmax, scale: Array) -> _Softmax:
        top = jnp.maximum(self.top, other.top)
        total = sum(x.total * jnp.exp(scale * (x.top - top)) for x in (self, other))
        return _Softmax(top, jnp.asarray(total), self.positive + other.positive, self.count + other.count)

    def loss(self, scale: Array) -> Float[Array, ""]:
        """As `softmax_loss`."""
        log_total = jnp.log(jnp.where(self.count > 0, self.total, 1.0))
        return (self._weight() * (log_total + scale * (self.top - self.positive / jnp.maximum(self.count, 1)))).sum()

    def slopes(self) -> tuple[Array, Array, Array]:
        """(top, p, t): the loss's gradient by a logit is p * exp(scale * (similarity - top)), and less by t at a positive."""
        return self.top, self._weight() / jnp.where(self.count > 0, self.total, 1.0), self._weight() / jnp.maximum(self.count, 1)

    def _weight(self) -> Float[Array, " A"]:
        """Of each row in the mean over those that have a positive."""
        found = (self.count > 0).astype(self.count.dtype)
        return found / jnp.maximum(found.sum(), 1)


class _Nearest(NamedTuple):
    """The most similar column that counts, of those seen so far; of equal ones the first."""

    similarity: Float[Array, " A"]
    place: Int[Array, " A"]
    right: Bool[Array, " A"]  # whether it is a positive

    @classmethod
    def empty(cls, side: Side) -> _Nearest:
        return cls(jnp.full_like(side.z[:, 0], -jnp.inf), jnp.zeros_like(side.key), jnp.zeros_like(side.counts))

    @classmethod
    def of(cls, similarity: Array, rows: Side, columns: Side, place: Array) -> _Nearest:
        similarity = jnp.where(columns.counts[None, :], similarity, -jnp.inf)
        at = similarity.argmax(axis=1)
        return cls(similarity.max(axis=1), place[at], rows.counts & columns.counts[at] & (rows.key == columns.key[at]))

    def merge(self, other: _Nearest, scale: Array) -> _Nearest:
        tie = (other.similarity == self.similarity) & (other.place < self.place)
        return jax.tree.map(partial(jnp.where, tie | (other.similarity > self.similarity)), other, self)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def blockwise_softmax(scale: Float[Array, ""], a: Side, b: Side, chunk: int, ring: bool) -> tuple[Float[Array, ""], Bool[Array, " A"]]:
    """The mean of `softmax_loss` over both directions of the logits `scale * a.z @ b.z.T`, and which of `a` are nearest to a positive.

    Beside the embeddings no array is larger than rows x `chunk`. On a mesh, over whose devices the batch has to split evenly, the
    rows are those of one device, and `b` is gathered there or, with `ring`, passed round. `scale` is positive; gradients are
    those of `scale` and of both `z`.
    """
    return _softmax_forward(scale, a, b, chunk, ring)[0]


def _softmax_forward(scale, a, b, chunk, ring):
    def block(rows, columns):
        columns, place = columns
        similarity, pairs, positive = _pairs(rows, columns)
        by_row, by_column = (_Softmax.of(scale, similarity, pairs, positive, axis) for axis in (1, 0))
        return (by_row, _Nearest.of(similarity, rows, columns, place)), by_column

    empty = (_Softmax.empty(a), _Nearest.empty(a)), _Softmax.empty(b)
    (by_row, nearest), by_column = _meet(block, scale, a, (b, _places(b)), empty, chunk, ring)
    loss = 0.5 * (by_row.loss(scale) + by_column.loss(scale))
    return (loss, nearest.right), (scale, a, b, by_row.slopes(), by_column.slopes())


def _softmax_backward(chunk, ring, kept, slope):
    scale, a, b, by_row, by_column = kept

    def block(rows, columns):
        (rows, by_row), (columns, by_column) = rows, columns
        similarity, pairs, positive = _pairs(rows, columns)
        d = jnp.zeros_like(similarity)
        for top, p, t in ([x[:, None] for x in by_row], [x[None, :] for x in by_column]):
            d += p * jnp.exp(scale * (similarity - top)) - jnp.where(positive, t, 0.0)
        d = jnp.where(pairs, 0.5 * slope[0] * d, 0.0)
        return d @ columns.z, d.T @ rows.z

    empty = jnp.zeros_like(a.z), jnp.zeros_like(b.z)
    d_a, d_b = _meet(block, scale, (a, by_row), (b, by_column), empty, chunk, ring)
    return (d_a * a.z).sum(), _of_z(scale * d_a), _of_z(scale * d_b)


blockwise_softmax.defvjp(_softmax_forward, _softmax_backward)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def blockwise_sigmoid(
    scale: Float[Array, ""], bias: Float[Array, ""], a: Side, b: Side, chunk: int, ring: bool
) -> tuple[Float[Array, ""], Bool[Array, " A"]]:
    """`sigmoid_loss` of the logits `scale * a.z @ b.z.T + bias`; the rest as `blockwise_softmax`."""
    return _sigmoid_forward(scale, bias, a, b, chunk, ring)[0]


def _sigmoid_forward(scale, bias, a, b, chunk, ring):
    def block(rows, columns):
        columns, place = columns
        similarity, pairs, positive = _pairs(rows, columns)
        logits = scale * similarity + bias
        per_pair = -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
        return (jnp.where(pairs, per_pair, 0.0).sum(axis=1), _Nearest.of(similarity, rows, columns, place)), ()

    empty = (jnp.zeros_like(a.z[:, 0]), _Nearest.empty(a)), ()
    (per_row, nearest), _ = _meet(block, scale, a, (b, _places(b)), empty, chunk, ring)
    count = jnp.maximum(a.counts.sum().astype(per_row.dtype), 1)
    return (per_row.sum() / count, nearest.right), (scale, bias, a, b, count)


def _sigmoid_backward(chunk, ring, kept, slope):
    scale, bias, a, b, count = kept

    def block(rows, columns):
        similarity, pairs, positive = _pairs(rows, columns)
        logits = scale * similarity + bias
        d = jnp.where(positive, -jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits))
        d = jnp.where(pairs, slope[0] / count * d, 0.0)
        return (d @ columns.z, d.sum(axis=1)), d.T @ rows.z

    empty = (jnp.zeros_like(a.z), jnp.zeros_like(a.z[:, 0])), jnp.zeros_like(b.z)
    (d_a, d_bias), d_b = _meet(block, scale, a, b, empty, chunk, ring)
    return (d_a * a.z).sum(), d_bias.sum(), _of_z(scale * d_a), _of_z(scale * d_b)


blockwise_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)


def _pairs(rows: Side, columns: Side) -> tuple[Array, Array, Array]:
    """Similarities, the pairs that count, and those of them that are positives, [A,B] each."""
    pairs = rows.counts[:, None] & columns.counts[None, :]
    return jnp.einsum("id,jd->ij", rows.z, columns.z), pairs, pairs & (rows.key[:, None] == columns.key[None, :])


def _of_z(slope: Array) -> Side:
    """A side's gradient: keys and what counts have none."""
    return Side._make((slope, None, None))


def _places(side: Side) -> Int[Array, " A"]:
    return jnp.arange(len(side.key), dtype=jnp.int32)


def batch_devices() -> dict[str, int]:
    """The axes of the ambient mesh over which a batch's rows are split, and their sizes."""
    mesh = jax.sharding.get_abstract_mesh()
    return {axis: mesh.shape[axis] for axis in BATCH_AXES if axis in mesh.shape}


def _meet(block: Callable[..., Any], scale: Array, rows: Any, columns: Any, empty: tuple[Any, Any], chunk: int, ring: bool) -> Any:
    """`block(rows, some columns)` for all columns: what it finds of the rows, merged, and what it finds of the columns.

    Rows, columns and `empty`, what is known of either before anything is seen, are trees of arrays with a leading axis.
    """
    devices, merge = batch_devices(), partial(_merge, scale)
    split, whole = PartitionSpec(tuple(devices)), PartitionSpec()
    if ring and math.prod(devices.values()) > 1:
        return jax.shard_map(partial(_ring, block, merge, chunk, devices), in_specs=split, out_specs=split)(rows, columns, empty)
    if not devices:
        return _in_chunks(block, merge, chunk, rows, columns, empty[0])
    laid = jax.lax.with_sharding_constraint  # the partitioner then gives each device its rows of every block
    return laid(_in_chunks(block, merge, chunk, laid(rows, split), laid(columns, whole), empty[0]), split)


def _ring(block, merge, chunk, devices, rows, columns, empty):
    """Every device keeps its rows; the columns, and behind them what is found of them, go round until they are home.

    Nothing that is sent waits for what is computed meanwhile: columns leave for the next device as they come, and what was
    found of them follows a turn later, to be merged there with what that device has found.
    """
    size = math.prod(devices.values())

    def send(x):
        return jax.lax.ppermute(x, tuple(devices), [(i, (i + 1) % size) for i in range(size)])

    def turn(state, _):
        columns, of_rows, of_columns = state
        following, of_columns = send(columns), send(of_columns)
        of_rows, found = _in_chunks(block, merge, chunk, rows, columns, of_rows)
        return (following, of_rows, merge(of_columns, found)), None

    (_, of_rows, of_columns), _ = jax.lax.scan(turn, (columns, *empty), length=size)
    return of_rows, send(of_columns)


def _in_chunks(block, merge, chunk, rows, columns, of_rows):
    """All rows against the columns, `chunk` at a time. What fills up the last chunk does not count."""
    total = len(jax.tree.leaves(columns)[0])
    chunk = min(chunk, total)

    def cut(x):
        return jnp.pad(x, ((0, -total % chunk), *((0, 0),) * (x.ndim - 1))).reshape(-1, chunk, *x.shape[1:])

    def step(of_rows, columns):
        found, of_columns = block(rows, columns)
        return merge(of_rows, found), of_columns

    of_rows, of_columns = jax.lax.scan(step, of_rows, jax.tree.map(cut, columns))
    return of_rows, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:total], of_columns)


def _merge(scale, x, y):
    """What two blocks found of the same rows or columns; numbers add up."""
    kinds = (_Softmax, _Nearest)
    return jax.tree.map(lambda x, y: x.merge(y, scale) if isinstance(x, kinds) else x + y, x, y, is_leaf=lambda x: isinstance(x, kinds))
