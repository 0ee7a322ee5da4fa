"""The alignment matrix: two encoders stay as they are, and linear maps behind them are found in closed form before step 0.

    c.linear_map = dict(pair=("image", "text"), method="ridge")        # or "cca"

of an `aligner` with `projection=dict(image="affine", text="affine")`. What is left to training is up to `optimizer.rules`; with
the projections frozen too, a run is this map and its evaluation. The map of one space into another by least squares is
Mikolov et al.'s, 2013, 'Exploiting Similarities among Languages for Machine Translation', eq. 3; Hotelling's canonical
correlations, 1936, take both into a third (Gong et al., 2014, 'A Multi-View Embedding Space for ... Retrieval', eq. 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mmjax.config import ConfigError, DataError, nearest
from mmjax.contract import State, present
from mmjax.ops.processes import placed

if TYPE_CHECKING:
    from mmjax.train.build import Parts

METHODS = ("ridge", "cca")
Map = tuple[np.ndarray, np.ndarray]  # kernel [D, K] and bias [K]


class LinearMap:
    """See the module.

    Args:
        pair: two streams. With "ridge" the first is mapped into the space of the second, whose map is the identity.
        method: "ridge" or "cca".
        ridge: what is added to the variances, as a share of their mean.
        power: with "cca", directions are weighted by their correlation to this power.
    """

    def __init__(self, pair: Sequence[str], method: str = "ridge", ridge: float = 0.1, power: float = 1.0):
        if method not in METHODS:
            raise ConfigError(f"linear_map.method={method!r} is unknown.{nearest(method, METHODS)}")
        if len(pair) != 2 or ridge <= 0:
            raise ConfigError(f"linear_map: pair={tuple(pair)} should be two streams, and ridge={ridge} above 0.")
        self.pair, self.method, self.ridge, self.power = tuple(pair), method, ridge, power

    def solve(self, x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"], width: int) -> tuple[Map, Map]:
        """The maps of both sides, from rows that belong together.

        Raises:
            ConfigError: the common space cannot be that wide.
        """
        of_x, of_y = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
        x, y = x - of_x, y - of_y
        if self.method == "ridge":
            if width != y.shape[1]:
                space = f"linear_map: 'ridge' maps into the space of {self.pair[1]!r}"
                raise ConfigError(f"{space}: model.width should be {y.shape[1]}, not {width}.")
            kernels = (np.linalg.solve(self._variance(x), x.T @ y / len(x)), np.eye(width))
        else:
            if width > min(x.shape[1], y.shape[1]):
                most = min(x.shape[1], y.shape[1])
                raise ConfigError(f"linear_map: there are {most} canonical correlations: model.width should be at most that, not {width}.")
            white = [_inverse_root(self._variance(z)) for z in (x, y)]
            u, s, v = np.linalg.svd(white[0] @ (x.T @ y / len(x)) @ white[1])
            weight = np.clip(s[:width], 0, 1) ** self.power
            kernels = (white[0] @ u[:, :width] * weight, white[1] @ v.T[:, :width] * weight)
        return (kernels[0], -of_x @ kernels[0]), (kernels[1], -of_y @ kernels[1])

    def _variance(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "D D"]:
        gram = x.T @ x / len(x)
        return gram + self.ridge * max(np.trace(gram) / len(gram), 1e-12) * np.eye(len(gram))

    def features(self, parts: Parts, fns: Any, state: State) -> tuple[np.ndarray, np.ndarray]:
        """What the encoders make of all training examples that have both sides, without augmentation; read once.

        Raises:
            DataError: fewer than two have.
        """
        names = tuple(f"{m}/pooled" for m in self.pair)
        found: list[Any] = []
        for batch in parts.data.eval_batches(parts.mesh, "train"):
            out = fns.outputs(state, batch, names)
            here = fns.replicated(present(batch, self.pair[0]) & present(batch, self.pair[1]))
            found.append((out[names[0]], out[names[1]], here))
        x, y, here = (np.concatenate(a) for a in zip(*jax.device_get(found), strict=True))
        if here.sum() < 2:
            raise DataError(f"linear_map: {int(here.sum())} training examples have both {' and '.join(self.pair)}.")
        return x[here].astype(np.float64), y[here].astype(np.float64)

    def mapped(self, parts: Parts, fns: Any, state: State) -> State:
        """The state with the maps in the place of the projections.

        Raises:
            ConfigError: the model has no affine projection of a side.
        """
        model = dict(state.params["model"])
        parts_of_pair = [f"{getattr(parts.model, 'part', str)(m)}_projection" for m in self.pair]
        for stream, name in zip(self.pair, parts_of_pair, strict=True):
            if set(model.get(name, {})) != {"kernel", "bias"}:
                raise ConfigError(
                    f"linear_map: {stream!r} has no affine projection: an aligner's model.projection.{stream}='affine' is one."
                )
        x, y = self.features(parts, fns, state)
        width = model[parts_of_pair[0]]["kernel"].shape[1]
        for name, (kernel, bias) in zip(parts_of_pair, self.solve(x, y, width), strict=True):
            old = model[name]
            model[name] = {k: placed(np.asarray(new, old[k].dtype), old[k].sharding) for k, new in (("kernel", kernel), ("bias", bias))}
        ema = state.ema
        if ema:
            ema = {**ema, "model": {**ema["model"], **jax.tree.map(jnp.copy, {name: model[name] for name in parts_of_pair})}}
        return state._replace(params={**state.params, "model": model}, ema=ema)


def _inverse_root(x: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D D"]:
    values, vectors = np.linalg.eigh(x)
    return vectors / np.sqrt(np.maximum(values, 1e-12)) @ vectors.T
