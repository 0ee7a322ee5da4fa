"""What every objective has to pass: finite at extreme inputs, blind to what is absent, the same on eight devices as on one.

Known of a class is `tiny() -> (instance, batch)`. The batch holds what the model would put out beside what it is
measured by: a stream `<m>` [B, D] doubles as the output `<m>/z`, and outputs of other names (`label/logits`,
`aux/kl`) stand under these beside the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax import contract
from mmjax.contract import BATCH_AXES, MESH_AXES, TARGETS, Context, Loss, Outputs
from mmjax.ops.masks import zero_where_not
from mmjax.testing.checks import assert_finite, assert_same, quick, strict

BESIDE = ("valid", "present", "key")


def parts_of(batch: Mapping[str, Any]) -> list[str]:
    """The streams and targets of a batch."""
    return [name for name in batch if "/" not in name and name.split("_", 1)[0] in (*contract.KINDS, *TARGETS)]


def outputs_of(batch: Mapping[str, Any]) -> Outputs:
    """The model's outputs that a batch stands for."""
    others = {name: value for name, value in batch.items() if "/" in name and name.split("/")[1] not in BESIDE}
    return {**{f"{stream}/z": batch[stream] for stream in contract.streams(batch)}, **others}


def loss_of(objective: Any, params: Any, outputs: Outputs, batch: Mapping[str, Any], aux: Any = ()) -> Loss:
    """The objective's loss at step 0, where a further pass of the model gives the same outputs, but that logits move with encodings."""

    def forward(batch, **_):
        given = [
            zero_where_not(contract.present(batch, m), batch[f"{m}/pooled"]) for m in contract.streams(batch) if f"{m}/pooled" in batch
        ]
        moved = sum(jnp.square(x).sum(axis=1, keepdims=True) for x in given)
        logits = {
            name: x + moved * jnp.arange(x.shape[1], dtype=jnp.float32)[None]
            for name, x in outputs.items()
            if name.endswith("/logits") and given
        }
        return {**outputs, **logits}

    return objective(Context(params, aux, jnp.int32(0), jax.random.key(0), forward), outputs, batch)


def value_and_grads(objective: Any) -> Callable[..., Any]:
    """(params, outputs, batch, aux) -> (total, loss), (gradients of the parameters, of the outputs)."""

    def total(params, outputs, batch, aux=()):
        loss = loss_of(objective, params, outputs, batch, aux)
        return sum(loss.terms.values(), jnp.zeros(())), loss

    return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)


class ObjectiveSubject:
    """An objective under test, with its own parameters and state."""

    def __init__(self, objective: Any, batch: Mapping[str, Any]):
        self.objective, self.batch = objective, {name: jnp.asarray(value) for name, value in batch.items()}
        self.parts = parts_of(batch)
        assert self.parts, f"tiny() gives neither a stream nor a target: {', '.join(batch)}."
        self.batch |= {f"{part}/present": contract.present(self.batch, part) for part in self.parts}
        self.rows = len(self.batch[self.parts[0]])
        assert self.rows % 2 == 0 and self.rows >= 4, f"tiny() gives {self.rows} rows: the checks need an even number from 4 on."
        self.params, self.aux = objective.init(jax.random.key(0), self.batch, outputs_of(self.batch))
        self.run: Any = quick(value_and_grads(objective))

    def with_outputs(self, change: Callable[[Any], Any]) -> dict[str, Any]:
        """The batch with other outputs: of streams, and of whatever stands for one."""
        names = [*contract.streams(self.batch), *(name for name in outputs_of(self.batch) if name in self.batch)]
        return {**self.batch, **{name: change(self.batch[name]) for name in names}}

    def with_presence(self, here: np.ndarray) -> dict[str, Any]:
        """The batch in which these rows have the streams and targets."""
        return {**self.batch, **{f"{part}/present": jnp.asarray(here) for part in self.parts}}


def of_objective(cls: Any) -> ObjectiveSubject:
    """The subject that an objective class is."""
    return ObjectiveSubject(*cls.tiny())


@strict
def check_extreme_inputs(subject: ObjectiveSubject) -> None:
    """Finite where outputs are zero, alike, or large, where nothing or one row is present, and wherever the parameters went."""
    for size in (0.0, -30.0, 30.0):
        own = jax.tree.map(lambda p, size=size: p + size, subject.params)
        for label, case in {
            "as it is": subject.batch,
            "all zero": subject.with_outputs(jnp.zeros_like),
            "all the same": subject.with_outputs(jnp.ones_like),
            "large": subject.with_outputs(lambda z: 100 * z),
            "none present": subject.with_presence(np.zeros(subject.rows, bool)),
            "one present": subject.with_presence(np.arange(subject.rows) == 1),
        }.items():
            (_, loss), grads = subject.run(own, outputs_of(case), case, subject.aux)
            assert_finite((loss, grads), f"{label}, parameters moved by {size}")


@strict
def check_absent_rows(subject: ObjectiveSubject) -> None:
    """Whatever stands in absent rows, outputs and targets, the loss and gradients are the same, and have none there."""
    here = np.arange(subject.rows) % 3 > 0
    case = subject.with_presence(here)
    contents = [name for name in case if name.split("/")[-1] not in BESIDE and name[0] != "_"]

    def fill(value: float) -> dict[str, Any]:
        out = dict(case)
        for name in contents:
            x = case[name]
            number = {0.0: 0, 1e4: 10**9}.get(value, -7) if jnp.issubdtype(x.dtype, jnp.integer) else value
            out[name] = jnp.where(here.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.asarray(number).astype(x.dtype))
        return out

    wanted, *others = (subject.run(subject.params, outputs_of(f), f, subject.aux) for f in map(fill, (0.0, np.nan, 1e4)))
    for got in others:
        assert_same(got, wanted, "With something else in absent rows")
    assert all((np.asarray(grad)[~here] == 0).all() for grad in wanted[1][1].values()), "There are gradients of absent rows."
    learns = any((np.asarray(grad)[here] != 0).any() for grad in wanted[1][1].values())
    assert learns or not wanted[0][1].terms, "No output has a gradient."


@strict
def check_devices(subject: ObjectiveSubject) -> None:
    """Rows split over all devices, by one mesh axis and by two, give what one device gives."""
    devices, rows = jax.device_count(), subject.rows
    case = {key: jnp.concatenate([value] * 4) for key, value in subject.batch.items()}
    noise = np.random.default_rng(1)
    names = [*contract.streams(case), *(name for name in outputs_of(case) if name in case)]
    case |= {name: jnp.asarray(noise.normal(size=case[name].shape), jnp.float32) for name in names}
    # the first devices have nothing, the others lack a row here and there
    gone = np.isin(np.arange(4 * rows), [*range(rows), rows + 1, 3 * rows])
    case |= {f"{part}/present": case[f"{part}/present"] & ~gone for part in subject.parts}
    unit = {stream: case[stream] / jnp.linalg.norm(case[stream], axis=-1, keepdims=True) for stream in contract.streams(case)}
    outputs = outputs_of({**case, **unit})
    wanted = subject.run(subject.params, outputs, case, subject.aux)
    for shape in {(devices, 1), (2, devices // 2)} if devices > 1 else set():
        mesh = jax.make_mesh((*shape, 1, 1), MESH_AXES, (AxisType.Auto,) * 4)
        with jax.set_mesh(mesh):
            split = jax.device_put((outputs, case), NamedSharding(mesh, PartitionSpec(BATCH_AXES)))
            got = subject.run(subject.params, *split, subject.aux)
        assert_same(got, wanted, f"On a mesh of {shape}")
        assert len(jax.tree.leaves(got[1][1])[0].sharding.device_set) == devices


CHECKS: tuple[Callable[[Any], None], ...] = (check_extreme_inputs, check_absent_rows, check_devices)
