"""Hypernetwork: Ha et al., 2017, 'HyperNetworks', sec. 3.1, eq. 2.

The modality `main` makes the weights of the layer through which the others pass. A network of two linear layers takes an embedding
of the layer to its kernel, row by row: a_i = W_i z + b_i for each input i, and the row is W_out a_i + b_out with the same W_out for
all rows and layers. The paper's embeddings of layers are learned; here each further modality has such a one, and to it is added
what the main modality says, so that a row without it has a layer nonetheless. The results are summed, with the main modality's own
vector through a dense layer. Takes any number of modalities; `main` has to be among them. Gaps: left out; without the main modality
embeddings make the layers. Time: one vector a modality. Cost a further modality: inner * embedding * (embedding + width) products,
with embedding * (inner * embedding + width) parameters for all, where `multiplicative` has width^2 * D_main for each. For a
question, a task or a state that says how to read the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.tokens import main_of
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not


class Hypernetwork(nn.Module):
    """Pooled vectors [B, D_m] to one of [B, width]; the layers that are made go from `inner` features to `width`."""

    main: str | None = None  # the first by name
    width: int = 256
    inner: int = 64
    embedding: int = 32
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        main_name = main_of(self.main, encodings)
        encodings = zero_absent(encodings)
        here, main = presence(encodings).any(axis=1), encodings.pop(main_name)

        def dense(width: int, name: str, scale: float = 1.0, bias: float = 0.0) -> nn.Dense:
            init = nn.initializers
            kernel = init.variance_scaling(scale, "fan_in", "normal")
            return nn.Dense(width, dtype=self.dtype, kernel_init=kernel, bias_init=init.normal(bias), name=name)

        fused = zero_where_not(main.present, dense(self.width, f"{main_name}_out")(main.pooled))
        if encodings:
            said = zero_where_not(main.present, dense(self.embedding, f"{main_name}_embedding")(main.pooled))
            first, second = dense(self.inner * self.embedding, "first"), dense(self.width, "second", 1 / self.inner)
            shift = dense(self.width, "shift", 0.1)
        for m, e in encodings.items():
            own = self.param(f"{m}_embedding", nn.initializers.normal(1.0), (1, self.embedding), jnp.float32)
            z = nn.tanh(said + own.astype(said.dtype))
            kernel = second(first(z).reshape(-1, self.inner, self.embedding))  # [B,inner,width]
            x = nn.relu(dense(self.inner, f"{m}_in", 2.0)(e.pooled))
            fused += zero_where_not(e.present, jnp.einsum("bi,bio->bo", x, kernel) + shift(z))
        return Encoding.from_pooled(zero_where_not(here, fused), here)

    @classmethod
    def tiny(cls) -> tuple[Hypernetwork, dict[str, np.ndarray]]:
        """A small instance, and tokens of three modalities for it."""
        return cls(main="image", width=6, inner=4, embedding=3), tiny_tokens(audio=(5, 6), image=(4, 8), text=(3, 4))
