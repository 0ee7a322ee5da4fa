"""The dynamic fusion graph: Zadeh et al., 2018, 'Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable
Dynamic Fusion Graph', sec. 4."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.nn.transformer import Dtype
from mmjax.ops.masks import zero_where_not

TOP = "top"


def subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All subsets but the empty one, the small ones first."""
    return [chosen for k in range(1, len(names) + 1) for chosen in combinations(names, k)]


def edges(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """The graph's edges as pairs of vertices, in the order of the efficacies: `a+b` is the vertex of modalities a and b.

    Into the vertex of a set lead those of its proper subsets, and into the vertex `top` those of all sets.
    """
    inner = [("+".join(part), "+".join(whole)) for whole in subsets(names) if len(whole) > 1 for part in subsets(whole)[:-1]]
    return inner + [("+".join(part), TOP) for part in subsets(names)]


class FusionGraph(nn.Module):
    """Vectors [B, D_m] to what the vertex over all others is, [B, width], and how much every one of `edges` lets through, [B, E].

    A vertex is made, by a network of its own, from its subsets' vertices times the efficacies of the edges, which one network
    sees all modalities to decide on. Where a modality is absent, so are the vertices of all sets with it. With `linear` the
    networks have no activations, nor have the efficacies, as in the published code; in the paper efficacies are between 0 and 1.
    """

    width: int
    hidden: int
    linear: bool = False
    largest: int = 6  # modalities: 6 have 665 edges
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Mapping[str, Float[Array, "B _"]], present: Mapping[str, Bool[Array, " B"]]
    ) -> tuple[Float[Array, "B width"], Float[Array, "B E"]]:
        names = tuple(x)
        if len(names) > self.largest:
            raise ConfigError(
                f"fusion: a graph over the subsets of {len(names)} modalities has {3 ** len(names) - 2 ** len(names):,} edges."
            )
        activation = (lambda x: x) if self.linear else nn.relu

        def network(name, inputs, width):
            hidden = activation(nn.Dense(self.hidden, dtype=self.dtype, name=f"{name}_in")(jnp.concatenate(inputs, axis=1)))
            return nn.Dense(width, dtype=self.dtype, name=f"{name}_out")(hidden)

        order = edges(names)
        efficacies = network("efficacy", list(x.values()), len(order))
        efficacies = efficacies if self.linear else nn.sigmoid(efficacies)
        here = {"+".join(s): jnp.stack([present[m] for m in s]).all(axis=0) for s in subsets(names)}
        efficacies = jnp.where(jnp.stack([here[part] for part, _ in order], axis=1), efficacies, 0)
        vertices = {m: zero_where_not(here[m], value) for m, value in x.items()}
        for whole in [*("+".join(s) for s in subsets(names) if len(s) > 1), TOP]:
            inputs = [vertices[part] * efficacies[:, i, None] for i, (part, into) in enumerate(order) if into == whole]
            made = network(whole, inputs, self.width)
            vertices[whole] = zero_where_not(here[whole], activation(made)) if whole != TOP else made
        return vertices[TOP], efficacies
