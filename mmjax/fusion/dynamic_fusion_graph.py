"""Dynamic fusion graph (DFG): Zadeh et al., 2018, 'Multimodal Language Analysis in the Wild', sec. 4.

A vertex for every set of modalities, made of the vertices of its subsets, and one over all of them; how much an edge lets through,
its efficacy between 0 and 1, is decided example by example by a network that sees all modalities. They are sown as `efficacies`
[B, edges], in the order of `mmjax.nn.fusion_graph.edges`: which modalities, and which of their combinations, an example's vector
came from. The paper applies it at every step of a recurrent network, which is `mfn` with `attention="graph"`; here it is applied
once to pooled vectors, each first through a dense layer. Takes any number of modalities up to 6. Gaps: zeros stand in where the
efficacies are decided, and in the graph it is left out. Time: one vector a modality. Cost: 2^M networks and 3^M - 2^M edges for M
modalities. For two to four modalities, when it matters what each combination of them adds.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from mmjax.contract import Encoding
from mmjax.fusion._tiny import tiny_tokens
from mmjax.nn.fusion_graph import FusionGraph
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import presence, zero_absent, zero_where_not


class DynamicFusionGraph(nn.Module):
    """Pooled vectors [B, D_m] to the vertex over all others, [B, width]."""

    width: int = 256  # of all vertices
    hidden: int = 128  # of their networks
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encodings: Mapping[str, Encoding], *, train: bool) -> Encoding:
        encodings = zero_absent(encodings)
        x = {m: nn.relu(nn.Dense(self.width, dtype=self.dtype, name=f"{m}_in")(e.pooled)) for m, e in encodings.items()}
        x = {m: zero_where_not(encodings[m].present, value) for m, value in x.items()}
        graph = FusionGraph(self.width, self.hidden, dtype=self.dtype, name="graph")
        fused, efficacies = graph(x, {m: e.present for m, e in encodings.items()})
        self.sow("intermediates", "efficacies", efficacies)
        here = presence(encodings).any(axis=1)
        return Encoding.from_pooled(zero_where_not(here, fused), here)

    @classmethod
    def tiny(cls) -> tuple[DynamicFusionGraph, dict[str, np.ndarray]]:
        """A small instance, and tokens of two modalities for it."""
        return cls(width=8, hidden=8), tiny_tokens(audio=(5, 6), text=(3, 4))
