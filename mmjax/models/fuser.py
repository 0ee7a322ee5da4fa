"""Encoders, a fusion and heads: several modalities to one prediction, whichever of them a row has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmjax import config, contract
from mmjax.config import ConfigError
from mmjax.contract import Batch, Encoding, Outputs
from mmjax.models._encoders import EncoderModel, Encoders, built, encode
from mmjax.ops.masks import zero_where_not

KINDS = {"label": ("class", "ordinal"), "tags": ("multilabel",), "value": ("regression",)}  # the first is the default


class Head(nn.Module):
    """A fused vector [B, D] to what an objective reads: [B, C] for classes and tags, [B, C - 1] for ordered classes, [B] or [B, C]
    for values.

    Ordered classes share one direction, and each threshold between two of them has its own bias: Cao et al., 2020, 'Rank
    consistent ordinal regression for neural networks' (CORAL), eq. 3; logit k says that the class is above k.
    """

    kind: str
    size: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "B D"], *, train: bool) -> Float[Array, "B ..."]:
        x = nn.Dropout(self.dropout, deterministic=not train)(x.astype(jnp.float32))
        if self.kind == "ordinal":
            bias = self.param("thresholds", lambda key, shape: jnp.linspace(1.0, -1.0, shape[1])[None], (1, self.size - 1))
            return nn.Dense(1, use_bias=False, name="dense")(x) + bias
        x = nn.Dense(self.size, name="dense")(x)
        return x[:, 0] if self.kind == "regression" and self.size == 1 else x


class Fused(nn.Module):
    """Encodes, fuses and predicts; see `Fuser`."""

    encoders: Encoders
    method: nn.Module
    heads: Mapping[str, Head]
    unimodal: bool
    mixup: float

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        encodings = encode(self.encoders, batch, train=train)
        if missing := sorted(set(self.encoders) - set(encodings)):
            raise ConfigError(
                f"model.encoders.{missing[0]}: the data have no {missing[0]!r}. Let data.pp read it, or leave the encoder out."
            )
        outputs: Outputs = {}
        for m, e in encodings.items():
            outputs |= {f"{m}/pooled": zero_where_not(e.present, e.pooled), f"{m}/tokens": e.tokens, f"{m}/valid": e.valid}
            outputs |= {f"aux/{m}_{name}": zero_where_not(e.present, value) for name, value in e.aux.items()}
        fuse = self._decisions if getattr(self.method, "decision_level", False) else self._features
        outputs |= fuse(encodings, train)
        return outputs

    def _features(self, encodings: Mapping[str, Encoding], train: bool) -> Outputs:
        """One fused vector, and a head a target on it."""
        e = self.method.copy(name="fusion")(encodings, train=train)
        pooled = zero_where_not(e.present, e.pooled.astype(jnp.float32))
        outputs: Outputs = {"fused/pooled": pooled, **_aux(e)}
        if self.mixup and train:
            pooled, mixed = mixed_up(pooled, e.present, self.mixup, self.make_rng("dropout"))
            outputs |= mixed
        for t, head in self.heads.items():
            outputs[output(t, head.kind)] = head.copy(name=f"head_{t}")(pooled, train=train)
            for m, own in encodings.items() if self.unimodal else ():
                x = zero_where_not(own.present, own.pooled)
                outputs[f"{m}/{output(t, head.kind)}"] = head.copy(name=f"head_{t}_{m}")(x, train=train)
        return outputs

    def _decisions(self, encodings: Mapping[str, Encoding], train: bool) -> Outputs:
        """A head a target and modality, and what the fusion makes of their logits."""
        outputs: Outputs = {}
        pooled = []
        for t, head in self.heads.items():
            decided = {}
            for m, e in encodings.items():
                x = head.copy(name=f"head_{t}_{m}")(zero_where_not(e.present, e.pooled), train=train)
                outputs[f"{m}/{output(t, head.kind)}"] = x
                decided[m] = Encoding.from_pooled(x[:, None] if x.ndim == 1 else x, e.present)
            name = "fusion" if len(self.heads) == 1 else f"fusion_{t}"
            e = self.method.copy(name=name)(decided, train=train)
            fused = zero_where_not(e.present, e.pooled.astype(jnp.float32))
            outputs[output(t, head.kind)] = fused[:, 0] if head.kind == "regression" and head.size == 1 else fused
            outputs |= _aux(e) if len(self.heads) == 1 else {f"{key}_{t}": value for key, value in _aux(e).items()}
            pooled.append(fused)
        return {"fused/pooled": jnp.concatenate(pooled, axis=1), **outputs}


def mixed_up(x: Float[Array, "B D"], present: Bool[Array, " B"], alpha: float, key: PRNGKeyArray) -> tuple[Array, Outputs]:
    """Each row's vector with a share of another row's, and who that is: Verma et al., 2019, 'Manifold Mixup', eq. 1.

    The share that stays is one Beta(alpha, alpha) draw for the batch (Zhang et al., 2018, 'mixup'). A row that is absent,
    or whose partner is, stays as it is: its partner is itself.
    """
    drawing, ordering = jax.random.split(key)
    share = jax.random.beta(drawing, alpha, alpha)
    partner = jax.random.permutation(ordering, len(x))
    partner = jnp.where(present & present[partner], partner, jnp.arange(len(x)))
    return share * x + (1 - share) * x[partner], {"mixup/partner": partner, "mixup/share": jnp.full(len(x), share)}


def output(target: str, kind: str) -> str:
    """The name under which a head's output stands."""
    return f"{target}/prediction" if kind == "regression" else f"{target}/logits"


def _aux(e: Encoding) -> Outputs:
    return {f"aux/{name}": zero_where_not(e.present, value) for name, value in e.aux.items()}


class Fuser(EncoderModel):
    """Any encoders with any fusion; outputs `fused/pooled` [B, D], and for each target `<target>/logits` or `<target>/prediction`.

    Besides `<m>/pooled`, `<m>/tokens` and `<m>/valid` of every stream, and `aux/<name>` [B] (`aux/<m>_<name>` of an
    encoder), losses that its parts bring, 0 where nothing is present.

    Args:
        encoders: stream to encoder config, or the stream whose weights are shared, as in `Aligner`.
        fusion: a fusion's config. One that says `decision_level = True` gets as `pooled` the logits of a head a modality,
            and what it returns are the logits; any other gets the encodings, and a head a target stands on what it returns.
            Its `head_kinds`, if it has them, are the kinds of heads that it fits.
        heads: target to `dict(size=...)`: the number of classes, tags or values. `label...` is one of several classes, or
            with `kind="ordinal"` of ordered ones; `tags...` any number of them; `value...` numbers. `dropout` is of what
            the head is given.
        unimodal: whether every modality has a head of its own for each target, `<m>/<target>/logits`, which the objective
            `unimodal` trains; under decision-level fusion it has one anyway.
        mixup: alpha of manifold mixup on the fused vector, 0 for none; losses of targets then are those of both rows.
    """

    def __init__(
        self,
        encoders: Mapping[str, Any],
        fusion: Mapping[str, Any],
        heads: Mapping[str, Mapping[str, Any]],
        unimodal: bool = False,
        mixup: float = 0.0,
    ):
        made = built(encoders)
        fuse: Any = config.build("fusion", fusion, "model.fusion")
        counts = getattr(fuse, "counts", None)
        if not made or (counts and len(made) not in counts):
            takes = f"takes {' or '.join(map(str, counts))} modalities" if counts else "needs at least one modality"
            raise ConfigError(f"model.fusion: {fusion['name']!r} {takes}, and model.encoders has {len(made)}: {', '.join(made) or 'none'}.")
        if not heads:
            raise ConfigError("model.heads names no target.")
        self.heads = {target: _head(target, node) for target, node in heads.items()}
        kinds = getattr(fuse, "head_kinds", None)
        for target, head in self.heads.items():
            if kinds and head.kind not in kinds:
                raise ConfigError(
                    f"model.fusion: {fusion['name']!r} fits {' and '.join(kinds)} heads; model.heads.{target} is {head.kind}."
                )
        if mixup < 0 or (mixup and getattr(fuse, "decision_level", False)):
            raise ConfigError(f"model.mixup={mixup} mixes fused vectors: it should be at least 0, and decision-level fusion has none.")
        super().__init__(Fused(made, fuse, self.heads, unimodal, mixup), made)


def _head(target: str, node: Mapping[str, Any]) -> Head:
    path, kind = f"model.heads.{target}", target.split("_", 1)[0]
    if kind not in contract.TARGETS:
        raise ConfigError(f"{path}: {target!r} is no target: a name begins with one of {', '.join(contract.TARGETS)}.")
    node = {"kind": KINDS[kind][0], **node}
    arguments = config.check_call(Head, node, path)
    if arguments["kind"] not in KINDS[kind]:
        raise ConfigError(f"{path}.kind={arguments['kind']!r} does not fit.{config.nearest(str(arguments['kind']), KINDS[kind])}")
    least = 1 if kind in ("value", "tags") else 2
    if not isinstance(arguments["size"], int) or arguments["size"] < least:
        raise ConfigError(f"{path}.size={arguments['size']!r} should be a whole number of at least {least}.")
    return Head(**arguments)
