"""From a finished model to one in training, which may be smaller or of fewer modalities: features, logits, affinities.

    c.objectives.teacher = dict(name="teacher", model=read_config("runs/large")["model"], logits=["label"])
    c.init_from = dict(teacher="runs/large")             # by the objective's name: whose weights the teacher has

Logits: Hinton et al., 2015, 'Distilling the Knowledge in a Neural Network', sec. 2. Features: Romero et al., 2015, 'FitNets',
eq. 3, with a matrix where widths differ. Affinities: Wu et al., 2023, 'TinyCLIP', eq. 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmjax import config, contract
from mmjax.config import ConfigError, nearest
from mmjax.contract import Batch, Context, Loss, Outputs, fold_name
from mmjax.nn.model import ModuleModel
from mmjax.objectives._supervised import mean_of
from mmjax.ops.masks import unit, zero_where_not

KINDS = ("features", "logits", "affinities")


class Teacher:
    """Terms `features/<output>`, `logits/<target>` and `affinities/<a>_<b>`, over the rows that have the streams in question.

    The teacher sees the batch that the student sees, as in evaluation. Its arrays are state that is not trained; they are in
    checkpoints, so that a run resumes without the teacher's. Logits: T^2 KL(teacher, student) at temperature T. Features: the mean
    square of the difference. Affinities: KL of the softmax of similarities, from a to b and back.

    Args:
        model: the teacher's model, as a config.
        features: outputs that both have, as "image/z" or "text/pooled"; of the student's, a matrix makes the teacher's width.
        logits: targets, as "label".
        affinities: pairs of streams that both embed, as ("image", "text").
        temperature: T.
        scale: what similarities are multiplied with.
        weights: factors by kind, 1 by default.
    """

    def __init__(
        self,
        model: Mapping[str, Any] | ModuleModel,
        features: Sequence[str] = (),
        logits: Sequence[str] = (),
        affinities: Sequence[Sequence[str]] = (),
        temperature: float = 2.0,
        scale: float = 1 / 0.07,
        weights: Mapping[str, float] | None = None,
    ):
        if not (features or logits or affinities):
            raise ConfigError("teacher: nothing is taught: give features, logits or affinities.")
        if temperature <= 0 or scale <= 0:
            raise ConfigError(f"teacher: temperature={temperature} and scale={scale} should be above 0.")
        for kind in weights or {}:
            if kind not in KINDS:
                raise ConfigError(f"teacher.weights: {kind!r} is unknown.{nearest(kind, KINDS)}")
        self.teacher: Any = config.build("models", model, "teacher.model") if isinstance(model, Mapping) else model
        self.features, self.logits, self.pairs = tuple(features), tuple(logits), [(a, b) for a, b in affinities]
        self.temperature, self.scale, self.weights = temperature, scale, {**dict.fromkeys(KINDS, 1.0), **(weights or {})}
        self.batch_wise = bool(self.pairs)

    def init(self, key: PRNGKeyArray, batch: Batch, outputs: Outputs) -> tuple[dict[str, Array], dict[str, Any]]:
        """A matrix for each feature whose width differs; the teacher's variables, which `init_from` gives.

        Raises:
            ConfigError: the student or the teacher has no such output, or another number of classes.
        """
        teacher = self.teacher.init(key, batch)
        taught = self._taught(teacher, batch)
        wanted = [*self.features, *(f"{t}/logits" for t in self.logits), *(f"{m}/z" for pair in self.pairs for m in pair)]
        for name in wanted:
            for who, found in (("student", outputs), ("teacher", taught)):
                if name not in found:
                    raise ConfigError(f"teacher: the {who}'s model gives no {name!r}.{nearest(name, found)}")
        for target in self.logits:
            own, other = (found[f"{target}/logits"].shape[-1] for found in (outputs, taught))
            if own != other:
                raise ConfigError(f"teacher: {target!r} has {own} classes, and {other} with the teacher.")
        params = {}
        for name in self.features:
            own, other = outputs[name].shape[-1], taught[name].shape[-1]
            if own != other:
                params[name.replace("/", "_")] = nn.initializers.lecun_normal()(fold_name(key, name), (own, other), jnp.float32)
        return params, teacher

    def __call__(self, ctx: Context, outputs: Outputs, batch: Batch) -> Loss:
        """Terms by kind; the teacher stays as it is."""
        taught = jax.lax.stop_gradient(self._taught(ctx.aux, batch))
        here = {m: contract.present(batch, m) for m in contract.streams(batch)}
        some = jnp.stack([*here.values()]).any(axis=0)
        terms: dict[str, Array] = {}
        for name in self.features:
            rows = here.get(name.split("/")[0], some)
            own, other = (zero_where_not(rows, found[name].astype(jnp.float32)) for found in (outputs, taught))
            matrix = ctx.params.get(name.replace("/", "_"))
            own = own if matrix is None else own @ matrix
            terms[f"features/{name}"] = mean_of(jnp.square(own - other).reshape(len(rows), -1).mean(axis=1), rows.astype(jnp.float32))
        for target in self.logits:
            p, q = (
                jax.nn.log_softmax(zero_where_not(some, found[f"{target}/logits"].astype(jnp.float32)) / self.temperature)
                for found in (taught, outputs)
            )
            terms[f"logits/{target}"] = self.temperature**2 * mean_of((jnp.exp(p) * (p - q)).sum(axis=1), some.astype(jnp.float32))
        for a, b in self.pairs:
            both = here[a] & here[b]
            theirs, ours = (self._similar(zero_where_not(both, found[f"{a}/z"]), found[f"{b}/z"], both) for found in (taught, outputs))
            there, back = _affinity(theirs, ours, both), _affinity(theirs.T, ours.T, both)
            terms[f"affinities/{a}_{b}"] = 0.5 * (there + back)
        weighted = {name: self.weights[name.split("/")[0]] * term for name, term in terms.items()}
        return Loss(weighted, some.sum().astype(jnp.float32), aux=ctx.aux)

    def _taught(self, variables: Mapping[str, Any], batch: Batch) -> Outputs:
        if encoded := [m for m in contract.streams(batch) if f"{m}/pooled" in batch]:
            raise ConfigError(f"teacher: {encoded[0]!r} comes as the student's encoder gives it: leave it out of data.encoded.")
        return self.teacher.apply(variables, batch, train=False)[0]

    def _similar(self, a: Float[Array, "B D"], b: Float[Array, "B D"], both: Bool[Array, " B"]) -> Float[Array, "B B"]:
        return self.scale * a.astype(jnp.float32) @ zero_where_not(both, b.astype(jnp.float32)).T

    @classmethod
    def tiny(cls) -> tuple[Teacher, dict[str, np.ndarray]]:
        """An instance, and a batch that holds the student's logits beside two streams."""
        rng = np.random.default_rng(0)
        batch = {m: rng.normal(size=(8, 4)).astype(np.float32) for m in ("series_a", "series_b")}
        batch |= {"label/logits": rng.normal(size=(8, 3)).astype(np.float32), "series_a/present": np.arange(8) != 3}
        pairs = [("series_a", "series_b")]
        return cls(ModuleModel(_Tiny()), features=["series_a/z"], logits=["label"], affinities=pairs), batch


def _affinity(p: Float[Array, "A B"], q: Float[Array, "A B"], rows: Bool[Array, " B"]) -> Float[Array, ""]:
    """KL of what rows say of each other, p the teacher; over the rows that are there, and among them."""
    p, q = (jax.nn.log_softmax(jnp.where(rows[None, :], x, -1e9)) for x in (p, q))
    kl = jnp.where(rows[None, :], jnp.exp(p) * (p - q), 0.0).sum(axis=1)
    return mean_of(zero_where_not(rows, kl), rows.astype(jnp.float32))


class _Tiny(nn.Module):
    """A linear model of two streams."""

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        given = {m: zero_where_not(contract.present(batch, m), batch[m]) for m in contract.streams(batch)}
        out = {f"{m}/z": unit(nn.Dense(6, name=m)(x)) for m, x in given.items()}
        return out | {"label/logits": nn.Dense(3, name="label")(sum(given.values(), jnp.zeros(())))}
