"""What every fusion has to pass, whoever wrote it: the checks of `checks.py` that fit, and those for several modalities.

Known of a class is `tiny() -> (instance, batch)`. The batch holds, for each of two to four modalities `<m>`, its tokens
`<m>` [B, N, D] and their `<m>/valid` [B, N], B a multiple of 8; widths and lengths differ where the method allows it.
`<m>/pooled` [B, E] may stand there, or else is the mean of the valid tokens; `time` and two `stages`, one of twice as
many positions and one of as many as the tokens, are added. A class may also say

    counts = (2, 3)                   how many modalities it takes; without it, any number from 1 to 4
    symmetric = True                  modalities are the same to it: exchanging their contents changes nothing
    source_only = True                pooled is of the modality `main` alone, and what the others hold must not change it
    no_gradient = {"key/bias": why}   parameters (by the end of their path) that may lack a gradient

Dropout, and whatever else draws, draws from the rng "dropout".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.config import ConfigError
from mmjax.contract import BATCH_AXES, MESH_AXES, Encoding, present
from mmjax.fusion._tiny import tiny_tokens as tiny_tokens
from mmjax.nn.model import ModuleModel
from mmjax.ops.masks import masked_mean
from mmjax.testing import checks
from mmjax.testing.checks import Subject, assert_finite, assert_same, contents, filled, paths, quick, strict


class _FromBatch(nn.Module):
    """A fusion that takes its encodings out of a batch, in the order of `streams`."""

    fusion: nn.Module
    streams: tuple[str, ...]

    def __call__(self, batch, *, train):
        return {"encoding": self.fusion(encodings_of(batch, self.streams), train=train)}


def encodings_of(batch: Mapping[str, Any], streams: tuple[str, ...]) -> dict[str, Encoding]:
    """The encodings that a flat batch describes, in the order of `streams`."""
    found = {}
    for m in streams:
        stages = sorted(name for name in batch if name.startswith(f"{m}/stage_"))
        pooled, here = batch[f"{m}/pooled"], present(batch, m)
        found[m] = Encoding(batch[m], batch[f"{m}/valid"], pooled, here, batch.get(f"{m}/time"), tuple(batch[s] for s in stages))
    return found


def with_parts(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What `tiny` gave with `present`, `pooled`, `time` and `stages` of every modality."""
    out: dict[str, Any] = {}
    for i, m in enumerate(sorted(name for name in batch if "/" not in name)):
        tokens, valid = jnp.asarray(batch[m]), jnp.asarray(batch[f"{m}/valid"])
        rows, n, _ = tokens.shape
        out[m], out[f"{m}/valid"] = tokens, valid
        out[f"{m}/present"] = jnp.ones(rows, bool)
        out[f"{m}/pooled"] = jnp.asarray(batch.get(f"{m}/pooled", masked_mean(tokens, valid)))
        out[f"{m}/time"] = jnp.broadcast_to(jnp.arange(n, dtype=jnp.float32) / (i + 1), (rows, n))
        out[f"{m}/stage_0"] = jnp.repeat(tokens, 2, axis=1)[:, :, ::-1]
        out[f"{m}/stage_1"] = jnp.tanh(tokens)
    return out


class FusionSubject(Subject):
    """A fusion under test."""

    def __init__(self, instance: Any, batch: Mapping[str, Any]):
        names = sorted(name for name in batch if "/" not in name)
        assert names, "tiny() gives no modality."
        for m in names:
            assert np.ndim(batch[m]) == 3, f"tiny() gives {m} of shape {np.shape(batch[m])}, not tokens [B, N, D]."
            assert f"{m}/valid" in batch, f"tiny() gives no {m}/valid: nothing would test what is not valid."
            assert not np.all(batch[f"{m}/valid"]), f"tiny() gives {m}/valid all true: nothing would test what is not valid."
        super().__init__(lambda fusion: ModuleModel(_FromBatch(fusion, tuple(names))), instance, with_parts(batch))
        assert self.rows % 8 == 0, f"tiny() gives {self.rows} rows: the checks need a multiple of 8, to split them over devices."

    def differentiable(self) -> list[str]:
        """All that encoders hand over."""
        return [name for m in self.streams for name in contents(self.batch, m)]

    def with_modalities(self, here: np.ndarray) -> dict[str, Any]:
        """The batch with these modalities present: `here` [B, M]."""
        return {**self.batch, **{f"{m}/present": jnp.asarray(here[:, i]) for i, m in enumerate(self.streams)}}

    def presences(self) -> list[dict[str, Any]]:
        """Three batches in which every row has modalities of its own; one row has all of them and one none."""
        found = []
        for k in range(3):
            here = np.random.default_rng(k).random((self.rows, len(self.streams))) < 0.6
            here[k], here[k + 1] = True, False
            found.append(self.with_modalities(here))
        return found

    def subsets(self) -> list[tuple[int, ...]]:
        """Every choice of modalities, the empty one too."""
        m = range(len(self.streams))
        return [subset for k in range(len(m) + 1) for subset in combinations(m, k)]

    def with_subset(self, subset: tuple[int, ...]) -> dict[str, Any]:
        """The batch with only these modalities, the same for all rows."""
        return self.with_modalities(np.tile(np.isin(np.arange(len(self.streams)), subset), (self.rows, 1)))


def of_fusion(cls: Any) -> FusionSubject:
    """The subject that a fusion class is."""
    return FusionSubject(*cls.tiny())


@strict
def check_every_subset(subject: FusionSubject) -> None:
    """With every choice of modalities, outputs and gradients are finite; a row's outputs do not depend on what other rows have."""
    alone = []
    for subset in subject.subsets():
        names = ", ".join(subject.streams[i] for i in subset) or "nothing"
        batch = filled(subject.with_subset(subset), subject.streams, np.nan, True)
        assert_finite(subject.step(subject.variables, batch), f"With {names} present")
        alone.append(subject.evaluate(subject.variables, batch))
        assert_finite(alone[-1], f"With {names} present, evaluated")
    which = np.random.default_rng(0).integers(0, len(alone), subject.rows)
    here = np.array([np.isin(np.arange(len(subject.streams)), subject.subsets()[i]) for i in which])
    mixed = subject.evaluate(subject.variables, subject.with_modalities(here))
    wanted = jax.tree.map(lambda *leaves: jnp.stack([leaves[i][row] for row, i in enumerate(which)]), *alone)
    assert_same(mixed, wanted, "Rows with different modalities, against all rows with the same", 1e-5)


@strict
def check_jit(subject: FusionSubject) -> None:
    """Without jit, and with the modalities in another order, the outputs are the same."""
    batch = subject.presences()[0]
    jitted = subject.evaluate(subject.variables, batch)

    def eager(streams: tuple[str, ...]) -> Encoding:
        model = ModuleModel(_FromBatch(subject.instance, streams))
        return model.apply(subject.variables, batch, train=False)[0]["encoding"]

    try:
        assert_same(eager(tuple(subject.streams[::-1])), jitted, "Modalities in another order", 1e-5)
    except AssertionError:
        assert_same(eager(tuple(subject.streams)), jitted, "Eager against jitted", 1e-5)
        raise


@strict
def check_symmetry(subject: FusionSubject) -> None:
    """Where a class says that it is `symmetric`, modalities may exchange their contents."""
    if not getattr(subject.instance, "symmetric", False):
        return
    batch, turned = subject.presences()[0], subject.streams[1:] + subject.streams[:1]
    other = {
        a + name.removeprefix(b): value
        for a, b in zip(subject.streams, turned, strict=True)
        for name, value in batch.items()
        if name.split("/")[0] == b
    }
    got, wanted = (subject.evaluate(subject.variables, x).pooled for x in (other, batch))
    assert_same(got, wanted, "With the modalities' contents exchanged", 1e-5)


@strict
def check_counts(subject: FusionSubject) -> None:
    """Any number of modalities from 1 to 4, or those that the class's `counts` names, give finite outputs; without time and stages, too."""
    counts = [count for count in getattr(subject.instance, "counts", (1, 2, 3, 4)) if count != len(subject.streams)]
    for count in counts:
        names, batch = _of_count(subject, count)
        module = _FromBatch(subject.instance, tuple(names))
        try:
            variables = checks.drawn(module, batch, train=False)  # all but the arithmetic
            if count in (counts[0], counts[-1]):  # to compile takes most of the time
                e = quick(lambda variables, batch, module=module: module.apply(variables, batch, train=False))(variables, batch)
                assert_finite(e, f"With {count} modalities")
        except Exception as error:
            raise AssertionError(f"With {count} modalities: {type(error).__name__}: {error}") from error
    bare = {name: value for name, value in subject.batch.items() if not name.split("/")[-1].startswith(("time", "stage_"))}
    try:
        jax.eval_shape(lambda batch: subject.apply(subject.variables, batch, train=False)[0], bare)
    except ConfigError:
        pass  # says so, and the model says it before training
    except Exception as error:
        raise AssertionError(f"Without time and stages, which few encoders give: {error}. It may raise ConfigError.") from error


def _of_count(subject: FusionSubject, count: int) -> tuple[list[str], dict[str, Any]]:
    """So many modalities: of `tiny`'s, those first that a field of the instance names (as in `main="text"`), and copies of them."""
    named = [m for m in subject.streams if m in vars(subject.instance).values()]
    order = named + [m for m in subject.streams if m not in named]
    batch, names = {}, []
    for i in range(count):
        m = order[i % len(order)]
        name = m if i < len(order) else f"{m}_{i}"
        names.append(name)
        batch |= {name + key.removeprefix(m): value for key, value in subject.presences()[0].items() if key.split("/")[0] == m}
    return sorted(names), batch


@strict
def check_bfloat16(subject: FusionSubject) -> None:
    """On encodings in bfloat16, and with `dtype="bfloat16"` where there is such a field: finite, and about the same.

    Under standard promotion of types: flax's own norms mix the two.
    """
    halved = hasattr(subject.instance, "dtype")
    instance = subject.instance.clone(dtype="bfloat16") if halved else subject.instance
    model = subject.wrap(instance)
    batch = filled(subject.presences()[0], subject.streams, np.nan, True)
    half = {n: v.astype(jnp.bfloat16) if v.dtype == jnp.float32 and not n.endswith("/time") else v for n, v in batch.items()}

    def step(params):
        outputs, stats = model.apply({**subject.variables, "params": params}, half, train=False)
        return checks.probe(outputs["encoding"]), (outputs["encoding"], stats)

    with jax.numpy_dtype_promotion("standard"):
        (_, (got, stats)), grads = quick(jax.value_and_grad(step, has_aux=True))(subject.variables["params"])
        shapes = jax.eval_shape(model.init, jax.random.key(0), half)
    wanted = subject.evaluate(subject.variables, batch)
    assert not halved or got.pooled.dtype == jnp.bfloat16, f"pooled is {got.pooled.dtype}: not computed in bfloat16."
    assert_finite((got, stats, grads), "In bfloat16")
    wrong = [path for path, leaf in paths((shapes.get("params", {}), grads, stats)) if leaf.dtype != jnp.float32]
    assert not wrong, f"Parameters, gradients or statistics of another type than float32: {wrong}"
    assert_same(got.pooled, wanted.pooled, "bfloat16 against float32", 0.1)


@strict
def check_sharded(subject: FusionSubject) -> None:
    """Rows split over the devices give what one device gives: outputs, statistics and gradients."""
    devices = jax.device_count()
    assert devices > 1 and subject.rows % devices == 0, f"{devices} devices do not split {subject.rows} rows."
    batch = subject.presences()[0]
    wanted = subject.step(subject.variables, batch)
    mesh = jax.make_mesh((devices, 1, 1, 1), MESH_AXES, (AxisType.Auto,) * 4)
    with jax.set_mesh(mesh):
        split = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))
        got = quick(subject.gradients)(subject.variables, split)
    assert_same(got, wanted, f"On {devices} devices", 1e-5)


CHECKS: tuple[Callable[[Any], None], ...] = (
    checks.check_contract,
    checks.check_absent_content,
    checks.check_absent_rows,
    checks.check_all_absent,
    check_every_subset,
    checks.check_content_matters,
    checks.check_gradients,
    check_jit,
    check_symmetry,
    check_counts,
    checks.check_compilations,
    checks.check_vmap,
    check_bfloat16,
    check_sharded,
)
