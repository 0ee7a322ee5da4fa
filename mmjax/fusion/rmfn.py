"""RMFN: Liang et al., 2018, 'Multimodal Language Analysis with Recurrent Multistage Fusion', sec. 3.

An LSTM a modality, side by side over common steps, whose gates see the fused vector of the step before besides (long-short term
hybrid memory). At every step it is made anew in `stages`: an LSTM over the stages highlights some of all modalities' outputs
(softmax weights on the single features), another LSTM over the stages fuses them with what the stages before have fused, and a
dense layer summarises what all stages have given. The highlights are sown as `highlights` [B, steps, stages, M * width].

The paper's modalities are aligned to words; here tokens are first resampled at common steps. A modality that has nothing at a step
keeps its state. Takes any number of modalities. Gaps: zeros stand in for the LSTM's state. Time: aligned by the tokens' times, and
evenly in their order where there are none. Cost: a recurrence over the steps with M + 2 * stages LSTMs. For aligned streams where
one moment takes several looks; `mfn` where it is changes between moments that tell.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.alignment import Alignment
from mmjax.nn.recurrent import lstm, lstm_bias, lstm_recurrent
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import zero_where_not


class Step(nn.Module):
    """One step: what the modalities' LSTMs read at it, and which modalities are there, to the states after it."""

    width: int
    hidden: int
    stages: int
    dtype: Dtype

    @nn.compact
    def __call__(self, state, at):
        (h, c, z), (gates, seen, valid) = state, at

        def dense(width, name, **options):
            return nn.Dense(width, dtype=self.dtype, name=name, **options)

        def recurrent(width, name):
            return dense(4 * width, name, use_bias=False, kernel_init=lstm_recurrent)

        new_h, new_c = {}, {}
        for m in h:
            fused_part = dense(4 * self.width, f"{m}_fused", use_bias=False)(z)
            after = lstm(gates[m] + recurrent(self.width, f"{m}_recurrent")(h[m]) + fused_part, c[m])
            new_h[m], new_c[m] = (jnp.where(seen[m][:, None], x, old) for x, old in zip(after, (h[m], c[m]), strict=True))

        outputs = jnp.concatenate(list(new_h.values()), axis=1)
        looking = dense(4 * self.hidden, "highlight_in", bias_init=lstm_bias)(outputs)
        look_again, weigh = recurrent(self.hidden, "highlight_recurrent"), dense(outputs.shape[1], "highlight_out")
        read, read_again = dense(4 * self.hidden, "fuse_in", bias_init=lstm_bias), recurrent(self.hidden, "fuse_recurrent")
        look = look_cell = fused = fused_cell = jnp.zeros((len(z), self.hidden), z.dtype)
        highlights, found = [], []
        for _ in range(self.stages):
            look, look_cell = lstm(looking + look_again(look), look_cell)
            highlights.append(jax.nn.softmax(weigh(look), axis=1))
            fused, fused_cell = lstm(read(highlights[-1] * outputs) + read_again(fused), fused_cell)
            found.append(fused)
        new_z = jnp.where(valid[:, None], dense(z.shape[1], "summarize")(jnp.concatenate(found, axis=1)), z)
        return (new_h, new_c, new_z), (jnp.concatenate([outputs, new_z], axis=1), jnp.stack(highlights, axis=1))


class Rmfn(nn.Module):
    """Tokens are the LSTMs' outputs and the fused vector at every step, [B, steps, M * width + fused]; pooled are those of the last."""

    width: int = 64  # of every modality's LSTM
    fused: int = 64
    hidden: int = 64  # of the two LSTMs over the stages
    stages: int = 3
    align: str = "linear"  # or "mean", "kernel", "attention"
    steps: int = 16
    main: str | None = None  # whose tokens are the steps
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        if self.stages < 1:
            raise ConfigError(f"fusion.stages={self.stages} should be at least 1.")
        steps = Alignment(self.align, self.steps, self.main, dtype=self.dtype, name="alignment")(encodings)
        gates = {m: nn.Dense(4 * self.width, dtype=self.dtype, bias_init=lstm_bias, name=f"{m}_in")(x) for m, x in steps.x.items()}
        start = {m: jnp.zeros((len(x), self.width), self.dtype) for m, x in gates.items()}
        scan = nn.scan(Step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        step = scan(self.width, self.hidden, self.stages, self.dtype, name="step")
        fused = jnp.zeros((len(steps.valid), self.fused), self.dtype)
        _, (x, highlights) = step((start, start, fused), (gates, steps.seen, steps.valid))
        self.sow("intermediates", "highlights", zero_where_not(steps.valid, highlights))
        return Encoding(zero_where_not(steps.valid, x), steps.valid, steps.last(x), steps.valid.any(axis=1), steps.time)

    @classmethod
    def tiny(cls) -> tuple[Rmfn, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=4, fused=4, hidden=4, stages=2, steps=3, align="mean"), tiny_tokens(audio=(5, 6), text=(3, 4))
