"""What is cheaper on the device than on the host: the first thing that a jitted step does with a batch.

    data.batch_pp = dict(audio_speech="log_mel(64)|spec_augment(2, 20)", series_gyro="normalise")
    data.modality_dropout = dict(image=0.3, audio=0.3)

The strings read as those of `data.pp` do; the operations of a stream are the functions of `batch_pp/<kind>.py`. A function
returns the operation, `op(x, valid, present, key) -> (x, valid)`, on the whole batch: `x` [B, ...], `valid` bool [B, T]
(None for a kind without positions), `present` bool [B], and a `key` of its own in every step, None in evaluation, where
nothing is drawn. An operation is jitted, and what it makes of a position depends on no invalid one.

An operation with a method `fit(examples) -> arrays` learns from training examples before step 0: `examples` are (x, valid,
present) as the operations before it give them, batch by batch, in jax. The arrays are kept in `State.fitted` and given to
every call, `op(x, valid, present, key, arrays)`; their shapes depend on those of a batch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from mmjax.config import ConfigError, nearest
from mmjax.contract import KINDS, Batch, fold_name, kind, present, streams
from mmjax.data.pp.builder import operations

POSITIONS = ("text", "audio", "video", "series", "points")  # kinds whose second axis `valid` is about


class BatchPP:
    """uint8 images and videos to float32 in [-1, 1], then each stream's operations, then modality dropout.

    Args:
        ops: {stream: operations}.
        modality_dropout: how probable it is that a present modality is dropped, {stream: p} or one number for all; see
            `drop_modalities`. In training alone.
        known: the streams that there are.

    Raises:
        ConfigError: another stream, an operation that is unknown or given other arguments, no probability.
    """

    def __init__(
        self,
        ops: Any = None,
        modality_dropout: Any = None,
        *,
        known: Iterable[str] = (),
        path: str = "data",
    ):
        known, where = sorted(known), f"{path}.batch_pp"
        if not isinstance(ops or {}, Mapping):
            raise ConfigError(f"{where}={ops!r} should name the streams, as in dict(audio='log_mel(64)').")
        modalities = [stream for stream in known if stream.split("_")[0] in KINDS]
        self._ops: dict[str, list[tuple[str, Callable]]] = {}
        for stream, text in sorted((ops or {}).items()):
            if stream not in known:
                raise ConfigError(f"{where}.{stream}: {path}.pp has no such stream.{nearest(stream, known)}")
            named = operations(text, stream, {}, where, package=__name__)
            self._ops[stream] = [(f"{place}_{name}", op) for place, (name, op) in enumerate(named)]
        self._dropout = _probabilities(modality_dropout, modalities, f"{path}.modality_dropout")

    def __call__(self, batch: Batch, fitted: Mapping[str, Any] | None = None, key: PRNGKeyArray | None = None) -> dict[str, Any]:
        """The batch as the model gets it; with `key=None`, in evaluation, nothing is drawn."""
        out = dict(batch)
        for stream in streams(batch):
            if kind(stream) in ("image", "video") and batch[stream].dtype == jnp.uint8:
                out[stream] = batch[stream].astype(jnp.float32) * (2 / 255) - 1
        for stream in self._ops:
            if stream in batch and f"{stream}/pooled" not in batch:  # an evaluator may ask for fewer streams; encoded ones went through
                out = self._operated(out, stream, fitted or {}, key)
        if key is not None and self._dropout:
            out |= drop_modalities(batch, self._dropout, fold_name(key, "modality_dropout"))
        return out

    def _operated(self, batch: Batch, stream: str, fitted: Mapping[str, Any], key: PRNGKeyArray | None, stop: str = "") -> dict[str, Any]:
        """The batch after the operations of one stream, up to the one called `stop`."""
        x, valid, here = _example(batch, stream)
        for name, op in self._ops[stream]:
            if name == stop:
                break
            own = None if key is None else fold_name(key, f"batch_pp/{stream}/{name}")
            x, valid = op(x, valid, here, own, *([fitted[stream][name]] if hasattr(op, "fit") else []))
        return {**batch, stream: x, **({} if valid is None else {f"{stream}/valid": valid})}

    @property
    def fits(self) -> list[str]:
        """The streams of which something is fitted."""
        return [stream for stream, ops in self._ops.items() if any(hasattr(op, "fit") for _, op in ops)]

    def fit(self, read: Callable[[], Iterable[Batch]]) -> dict[str, dict[str, Any]]:
        """{stream: {operation: arrays}} of the batches that `read()` gives, read once for every operation that fits."""
        plain, fitted = BatchPP(), {}

        def before(stream: str, name: str) -> Iterator[tuple[Array, Any, Array]]:
            known = {stream: dict(fitted[stream])}
            prepared = jax.jit(lambda batch: _example(self._operated(plain(batch), stream, known, None, stop=name), stream))
            return (prepared(dict(batch)) for batch in read())

        for stream in self.fits:
            fitted[stream] = {}
            for name, op in self._ops[stream]:
                if hasattr(op, "fit"):
                    fitted[stream][name] = op.fit(before(stream, name))
        return fitted


def _example(batch: Batch, stream: str) -> tuple[Array, Bool[Array, "B T"] | None, Bool[Array, " B"]]:
    """x, valid, present of a stream."""
    x = jnp.asarray(batch[stream])
    valid = batch.get(f"{stream}/valid", jnp.ones(x.shape[:2], bool) if kind(stream) in POSITIONS else None)
    return x, valid, present(batch, stream)


def _probabilities(dropout: Any, modalities: list[str], path: str) -> dict[str, float]:
    each = dropout if isinstance(dropout, Mapping) else dict.fromkeys(modalities, dropout or 0.0)
    for stream, p in each.items():
        if stream not in modalities:
            raise ConfigError(f"{path}.{stream}: there is no such modality.{nearest(stream, modalities)}")
        if not isinstance(p, int | float) or not 0 <= p <= 1:
            raise ConfigError(f"{path}={dropout!r} should be a probability, from 0 to 1, for one modality or for all.")
    return {stream: float(p) for stream, p in sorted(each.items()) if p}


def drop_modalities(batch: Batch, probabilities: Mapping[str, float], key: PRNGKeyArray) -> dict[str, Bool[Array, " B"]]:
    """The `<m>/present` of a batch in which modalities are missing at random, of each row others (Neverova et al., 2015, sec. 3.3).

    Each modality that a row has is dropped with its probability p_m, independently. A row that would lose all its n
    modalities keeps one of them, each with probability 1 / n: so m is dropped with p_m - (product of all n p) / n in all.
    """
    names = streams(batch)
    here = jnp.stack([present(batch, m) for m in names], axis=1)  # [B, M]
    p = jnp.array([[probabilities.get(m, 0.0) for m in names]], jnp.float32)
    dropping, saving = jax.random.split(key)
    kept = here & (jax.random.uniform(dropping, here.shape) >= p)
    saved = jax.random.categorical(saving, jnp.where(here, 0.0, -jnp.inf), axis=1)  # where a row has none: any, and it stays absent
    kept = jnp.where(kept.any(axis=1, keepdims=True), kept, here & jax.nn.one_hot(saved, len(names), dtype=bool))
    return {f"{m}/present": kept[:, i] for i, m in enumerate(names) if m in probabilities}
