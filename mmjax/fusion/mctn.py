"""MCTN: Pham et al., 2019, 'Found in Translation: Learning Robust Joint Representations by Cyclic Translations Between Modalities'.

The source modality (`main`) is translated into a target and back, and what the translation passes through is the joint
representation (sec. 3.2): an LSTM encodes the source's tokens, another with additive attention (Bahdanau et al., 2015) decodes the
target's, and the same two, with layers of each modality's own for what they read and say, translate these into the source's. A further
target is translated from the joint sequence by a pair of its own, which makes the next joint sequence, without a way back (sec. 3.3).
An LSTM reads the last one, and its last output is pooled (sec. 3.4). Only the source is ever read: a target serves the losses alone.

`aux` has `translation_<m>` and `cycle`, the mean squared errors over valid tokens in rows that have the source and the target (for
`cycle` the first one); what is to be met gets no gradient. Train with the objective `auxiliary`, or targets teach nothing. Targets
come in the order of their names. As in the published code no decoder reads what it said, which is linear in its state here. There the
scores are linear, too, so that softmax takes the decoder's state out, its forget gate is the input gate, and encoders may run both
ways; none of it is here. Takes any number of modalities; `main` has to be among them. Gaps: a learned step stands in for the source;
targets are not read. Time: unaligned tokens, each modality's in their order. Cost: a recurrence over each sequence, two of them twice
for the cycle; in evaluation over the source's alone. For targets that are there in training and may be missing, all of them, later.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.recurrent import lstm, lstm_bias, lstm_recurrent
from mmjax.nn.tokens import main_of, with_stand_in
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import masked_mean, presence, zero_absent, zero_where_not


class Step(nn.Module):
    """One step of an LSTM, of what its gates come to without the state; one that is not valid keeps the state."""

    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, state, at):
        (h, c), (gates, valid) = state, at
        gates = gates + nn.Dense(4 * self.width, use_bias=False, dtype=self.dtype, kernel_init=lstm_recurrent, name="recurrent")(h)
        h, c = (jnp.where(valid[:, None], new, old) for new, old in zip(lstm(gates, c), (h, c), strict=True))
        return (h, c), h


class AttendingStep(nn.Module):
    """One step of a decoder, which reads the mean of `memory` that its state asks for."""

    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, state, valid, memory, keys, readable):
        query = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="query")(state[0])
        scores = nn.Dense(1, use_bias=False, dtype=self.dtype, name="score")(jnp.tanh(keys + query[:, None]))[..., 0]
        found = jnp.einsum("bn,bnd->bd", jax.nn.softmax(scores, axis=1, where=readable), memory)
        gates = nn.Dense(4 * self.width, dtype=self.dtype, bias_init=lstm_bias, name="context")(found)
        return Step(self.width, self.dtype, name="lstm")(state, (gates, valid))


def scanned(step: Any, in_axes: Any, width: int, dtype: Dtype, rows: int) -> tuple[nn.Module, tuple[Array, Array]]:
    """A step over axis 1, to be called in a compact module, and the state before the first."""
    scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, in_axes=in_axes, out_axes=1)
    zero = jnp.zeros((rows, width), dtype)
    return scan(width, dtype, name="step"), (zero, zero)


class Encoder(nn.Module):
    """An LSTM's outputs, of what its gates come to without the state."""

    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, gates: Float[Array, "B N G"], valid: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        step, state = scanned(Step, 1, self.width, self.dtype, len(gates))
        return step(state, (gates, valid))[1]


class Decoder(nn.Module):
    """Outputs at the steps [B, T], those that are valid, of an LSTM that attends to the valid ones of `memory`."""

    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, memory: Float[Array, "B N D"], valid: Bool[Array, "B N"], steps: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
        keys = nn.Dense(self.width, dtype=self.dtype, name="keys")(memory)
        readable = valid | ~valid.any(axis=1, keepdims=True)  # finite in a row that has nothing, which is in no loss
        step, state = scanned(AttendingStep, (1, *(nn.broadcast,) * 3), self.width, self.dtype, len(memory))
        return step(state, steps, memory, keys, readable)[1]


class Mctn(nn.Module):
    """Tokens are the last joint sequence, [B, N + 1, width] for N of the source and, last, the stand-in; pooled [B, width]."""

    main: str | None = None  # the source; the first by name
    width: int = 64  # of every LSTM
    dtype: Dtype = "float32"

    source_only = True

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        main, present = main_of(self.main, encodings), presence(encodings).any(axis=1)
        targets, aux = zero_absent(encodings), {}
        source, dense = targets.pop(main), partial(nn.Dense, dtype=self.dtype)
        gates = partial(dense, 4 * self.width, bias_init=lstm_bias)
        encode = Encoder(self.width, self.dtype, name="encoder")
        x, valid = with_stand_in(gates(name=f"{main}_in")(source.tokens), source.valid, present)
        joint = encode(x, valid)
        for i, (m, target) in enumerate(targets.items()):
            if i:
                joint = Encoder(self.width, self.dtype, name=f"encoder_{m}")(gates(name=f"{m}_in")(joint), valid)
            decode, both = Decoder(self.width, self.dtype, name=f"decoder_{m}"), source.present & target.present
            said = dense(target.tokens.shape[2], name=f"{m}_out")(decode(joint, valid, target.valid))
            aux[f"translation_{m}"] = miss(said, target, both)
            if not i:
                back = encode(gates(name=f"{m}_in")(said), target.valid)
                again = dense(source.tokens.shape[2], name=f"{main}_out")(decode(back, target.valid, source.valid))
                aux["cycle"] = miss(again, source, both)
        pooled = Encoder(self.width, self.dtype, name="pool")(gates(name="pool_in")(joint), valid)[:, -1]
        time = None if source.time is None else jnp.pad(source.time, ((0, 0), (0, 1)))
        return Encoding(zero_where_not(valid, joint), valid, pooled, present, time, aux=aux)

    @classmethod
    def tiny(cls) -> tuple[Mctn, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(main="text", width=5), tiny_tokens(audio=(3, 6), text=(4, 4))


def miss(said: Float[Array, "B T D"], wanted: Encoding, rows: Bool[Array, " B"]) -> Float[Array, " B"]:
    """Mean squared error over the valid tokens, 0 in other rows."""
    error = jnp.square(said.astype(jnp.float32) - jax.lax.stop_gradient(wanted.tokens.astype(jnp.float32)))
    return zero_where_not(rows, masked_mean(error, wanted.valid).mean(axis=1))
