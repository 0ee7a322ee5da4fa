"""Every file in mmjax/objectives: finite at extreme inputs, blind to what is absent, the same on eight devices as on one.

Known of a class is only `tiny() -> (instance, batch)`, where the batch's streams double as the outputs `<m>/z`.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from objectives import outputs_of, start, value_and_grads

from checks import assert_finite, assert_same, quick
from mmjax import config, contract
from mmjax.contract import BATCH_AXES
from mmjax.train.sharding import make_mesh

NAMES = config.names("objectives")


@cache
def tiny(name):
    objective, batch = config.resolve("objectives", name).tiny()
    batch = {key: jnp.asarray(value) for key, value in batch.items()}
    batch |= {f"{stream}/present": contract.present(batch, stream) for stream in contract.streams(batch)}
    params, aux = start(objective, batch)
    return quick(value_and_grads(objective)), params, aux, batch


def with_(batch, z=None, present=None):
    streams = contract.streams(batch)
    changed = {} if z is None else {stream: z(batch[stream]) for stream in streams}
    changed |= {} if present is None else {f"{stream}/present": jnp.asarray(present) for stream in streams}
    return {**batch, **changed}


@pytest.mark.parametrize("name", NAMES)
def test_finite_at_extreme_inputs(name):
    run, params, aux, batch = tiny(name)
    rows = len(batch[contract.streams(batch)[0]])
    for size in (0.0, -30.0, 30.0):
        own = jax.tree.map(lambda p, size=size: p + size, params)
        for label, case in {
            "as it is": batch,
            "all zero": with_(batch, jnp.zeros_like),
            "all the same": with_(batch, jnp.ones_like),
            "large": with_(batch, lambda z: 100 * z),
            "none present": with_(batch, present=np.zeros(rows, bool)),
            "one present": with_(batch, present=np.arange(rows) == 1),
        }.items():
            (_, loss), grads = run(own, outputs_of(case), case, aux)
            assert_finite((loss, grads), f"{label}, parameters moved by {size}")


@pytest.mark.parametrize("name", NAMES)
def test_absent_rows_do_not_matter(name):
    run, params, aux, batch = tiny(name)
    here = np.arange(len(batch[contract.streams(batch)[0]])) % 3 > 0
    case = with_(batch, present=here)
    fills = (with_(case, lambda z, value=value: jnp.where(here[:, None], z, value)) for value in (0.0, np.nan, 1e4))
    wanted, *others = (run(params, outputs_of(filled), filled, aux) for filled in fills)
    for got in others:
        assert_same(got, wanted, "With something else in absent rows")
    assert all((np.asarray(grad)[~here] == 0).all() for grad in wanted[1][1].values()), "There are gradients of absent rows."


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "fsdp": 4}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_give_what_one_gives(name, mesh):
    run, params, aux, batch = tiny(name)
    streams = contract.streams(batch)
    rows = len(batch[streams[0]])
    case = {key: jnp.concatenate([value] * 4) for key, value in batch.items()}
    case |= {stream: jnp.asarray(np.random.default_rng(1).normal(size=case[stream].shape), jnp.float32) for stream in streams}
    # the first two devices have nothing, the others lack a row here and there
    gone = np.isin(np.arange(4 * rows), [*range(rows), rows + 1, 3 * rows])
    case = {**case, **{f"{stream}/present": case[f"{stream}/present"] & ~gone for stream in streams}}
    outputs = outputs_of({stream: case[stream] / jnp.linalg.norm(case[stream], axis=-1, keepdims=True) for stream in streams})
    wanted = run(params, outputs, case, aux)
    with jax.set_mesh(make_mesh(**mesh)):
        split = jax.device_put((outputs, case), NamedSharding(make_mesh(**mesh), PartitionSpec(BATCH_AXES)))
        got = run(params, *split, aux)
    assert_same(got, wanted, f"On {mesh}")
    assert len(jax.tree.leaves(got[1][1])[0].sharding.device_set) == 8
