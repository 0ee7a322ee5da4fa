"""Where activations lie on the mesh."""

from __future__ import annotations

from types import EllipsisType

import jax
from jax.core import Tracer
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped


def constrained(x: Shaped[Array, "..."], *axes: str | tuple[str, ...] | EllipsisType | None) -> Shaped[Array, "..."]:
    """`x` whose dimensions are split over these axes of the ambient mesh; as it is where there is no mesh.

    None, and any dimension that is not named, is whole; `...` is left to the compiler. Says to the compiler what it would
    otherwise guess: left alone it may split what a layer gives like that layer's parameters.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not isinstance(x, Tracer):
        return x

    def known(axis):
        if axis is ...:
            return PartitionSpec.UNCONSTRAINED
        return tuple(name for name in ((axis,) if isinstance(axis, str) else axis or ()) if name in mesh.shape)

    return jax.lax.with_sharding_constraint(x, PartitionSpec(*map(known, axes)))


def axis_size(axis: str) -> int:
    """Into how many parts an axis of the ambient mesh splits; 1 where there is none."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)
