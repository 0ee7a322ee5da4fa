"""MFN and Graph-MFN: Zadeh et al., 2018, 'Memory Fusion Network for Multi-view Sequential Learning', and 2018, 'CMU-MOSEI', sec. 4.

An LSTM a modality, side by side over common steps. At every step an attention over the LSTMs' memories before and after it finds
what changes together (delta-memory attention), and a memory of all modalities, with one gate to retain and one to update, keeps it
(multi-view gated memory). Graph-MFN ('Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable Dynamic Fusion
Graph') has a dynamic fusion graph over the LSTMs' outputs before and after the step in place of the attention: `attention="graph"`.
How much its edges let through is sown as `efficacies` [B, steps, edges], in the order of `mmjax.nn.fusion_graph.edges`.

The papers' modalities are aligned to words; here tokens are first resampled at common steps. A modality that has nothing at a step
keeps its state, where the published code would read zeros. Takes any number of modalities. Gaps: zeros stand in for the LSTM's
state, and in the graph it is left out. Time: aligned by the tokens' times, and evenly in their order where there are none. Cost: a
recurrence over the steps with M LSTMs and four small networks. For aligned streams whose interplay changes over time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mmjax.config import ConfigError, nearest
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.alignment import Alignment
from mmjax.nn.fusion_graph import FusionGraph
from mmjax.nn.recurrent import lstm, lstm_bias, lstm_recurrent
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import zero_where_not

ATTENTION = ("delta", "graph")


class Step(nn.Module):
    """One step: what the LSTMs read at it, and which modalities are there, to the states after it."""

    width: int
    memory: int
    hidden: int
    attention: str
    linear: bool
    dropout: float
    dtype: Dtype
    train: bool

    @nn.compact
    def __call__(self, state, at, present):
        (h, c, u), (gates, seen, valid) = state, at
        new_h, new_c = {}, {}
        for m in h:
            recurrent = nn.Dense(4 * self.width, use_bias=False, dtype=self.dtype, kernel_init=lstm_recurrent, name=f"{m}_recurrent")
            after = lstm(gates[m] + recurrent(h[m]), c[m])
            new_h[m], new_c[m] = (jnp.where(seen[m][:, None], x, old) for x, old in zip(after, (h[m], c[m]), strict=True))

        efficacies = jnp.zeros((len(u), 0), u.dtype)
        if self.attention == "graph":
            both = {m: jnp.concatenate([h[m], new_h[m]], axis=1) for m in h}
            vertices = {m: nn.relu(nn.Dense(self.width, dtype=self.dtype, name=f"{m}_vertex")(x)) for m, x in both.items()}
            graph = FusionGraph(self.hidden, self.hidden, self.linear, dtype=self.dtype, name="graph")
            attended, efficacies = graph(vertices, present)
        else:
            change = jnp.concatenate([*c.values(), *new_c.values()], axis=1)
            attended = jax.nn.softmax(self._network("attention", change, change.shape[1]), axis=1) * change
        proposed = jnp.tanh(self._network("proposal", attended, self.memory))
        seen_and_kept = jnp.concatenate([attended, u], axis=1)
        retain, update = (nn.sigmoid(self._network(name, seen_and_kept, self.memory)) for name in ("retain", "update"))
        new_u = jnp.where(valid[:, None], retain * u + update * proposed, u)
        return (new_h, new_c, new_u), (jnp.concatenate([*new_h.values(), new_u], axis=1), efficacies)

    def _network(self, name: str, x: Array, width: int) -> Array:
        hidden = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name=f"{name}_in")(x))
        hidden = nn.Dropout(self.dropout, deterministic=not self.train)(hidden)
        return nn.Dense(width, dtype=self.dtype, name=f"{name}_out")(hidden)


class Mfn(nn.Module):
    """Tokens are the LSTMs' outputs and the memory at every step, [B, steps, M * width + memory]; pooled are those of the last."""

    width: int = 64  # of every LSTM
    memory: int = 128
    hidden: int = 64  # of the small networks, and of the graph's vertices
    attention: str = "delta"  # or "graph"
    linear: bool = False  # the graph without activations, as in the published code
    align: str = "linear"  # or "mean", "kernel", "attention"
    steps: int = 16
    main: str | None = None  # whose tokens are the steps
    dropout: float = 0.0  # in the small networks
    dtype: Dtype = "float32"

    variants = {"mfn": {}, "graph_mfn": {"attention": "graph"}}

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.attention not in ATTENTION:
            raise ConfigError(f"fusion.attention={self.attention!r} is unknown.{nearest(self.attention, ATTENTION)}")
        steps = Alignment(self.align, self.steps, self.main, dtype=self.dtype, name="alignment")(encodings)
        gates = {m: nn.Dense(4 * self.width, dtype=self.dtype, bias_init=lstm_bias, name=f"{m}_in")(x) for m, x in steps.x.items()}
        present = {m: seen.any(axis=1) for m, seen in steps.seen.items()}
        start = {m: jnp.zeros((len(x), self.width), self.dtype) for m, x in gates.items()}
        memory = jnp.zeros((len(steps.valid), self.memory), self.dtype)
        axes: Any = (1, nn.broadcast)
        scan = nn.scan(Step, variable_broadcast="params", split_rngs={"params": False, "dropout": True}, in_axes=axes, out_axes=1)
        step = scan(self.width, self.memory, self.hidden, self.attention, self.linear, self.dropout, self.dtype, train, name="step")
        _, (x, efficacies) = step((start, start, memory), (gates, steps.seen, steps.valid), present)
        if self.attention == "graph":
            self.sow("intermediates", "efficacies", zero_where_not(steps.valid, efficacies))
        return Encoding(zero_where_not(steps.valid, x), steps.valid, steps.last(x), steps.valid.any(axis=1), steps.time)

    @classmethod
    def tiny(cls) -> tuple[Mfn, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=4, memory=6, hidden=8, steps=3, align="mean"), tiny_tokens(audio=(5, 6), text=(3, 4))
