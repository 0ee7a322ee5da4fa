"""Sharded training equals unsharded; where arrays lie; meshes and batches that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from mmjax.config import ConfigError
from mmjax.train.build import parts_of
from mmjax.train.sharding import check_batch_size, make_mesh, state_sharding
from toy import toy_config


def three_losses(mesh_config, monkeypatch, devices=8):
    """Losses and parameters of three steps on a mesh."""
    # Momentum, not Adam: that blows up the rounding of gradients which are zero but for it, such as a key bias's.
    optimizer = {"name": "sgd", "momentum": 0.9, "lr": 0.1, "ema": 0.9}
    config = toy_config(mesh=mesh_config, optimizer=optimizer)
    if devices == 1:
        one = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
        monkeypatch.setattr("mmjax.train.build.make_mesh", lambda **_: one)
    parts = parts_of(config)
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        step = parts.step(shapes)
        batches = parts.data.train_batches(parts.mesh)
        state = parts.init(shapes, next(parts.data.train_batches(parts.mesh)))
        losses = []
        for _ in range(3):
            state, metrics = step(state, next(batches))
            losses.append(float(metrics["loss"]))
    for array, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
        assert array.sharding.is_equivalent_to(wanted.sharding, array.ndim), "the step leaves everything where it was"
    monkeypatch.undo()
    return losses, state


@pytest.fixture(scope="module")
def unsharded():
    with pytest.MonkeyPatch.context() as patch:
        losses, state = three_losses({}, patch, devices=1)
    return losses, jax.device_get((state.params, state.ema))


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 4}], ids=["data", "fsdp", "both"])
def test_losses_and_parameters_equal_those_of_one_device(mesh, unsharded, monkeypatch):
    losses, state = three_losses({**mesh, "fsdp_min_size": 64}, monkeypatch)
    np.testing.assert_allclose(losses, unsharded[0], rtol=3e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), jax.device_get((state.params, state.ema)), unsharded[1]
    )
    kernel = state.params["model"]["text"]["transformer"]["block_00"]["mlp"]["in"]["kernel"]
    moments = [x for x in jax.tree.leaves(state.opt) if x.shape == kernel.shape]
    split = mesh.get("fsdp", 1)
    assert len(moments) >= 1
    for array in (kernel, *moments):
        assert array.addressable_shards[0].data.size == array.size // split, "parameters and optimizer state are split alike"


def test_large_arrays_are_split_and_small_ones_are_not():
    mesh = make_mesh(data=2, fsdp=4)
    shapes = {
        "big": jax.ShapeDtypeStruct((6, 64, 32), jnp.float32),
        "odd": jax.ShapeDtypeStruct((33, 35), jnp.float32),
        "small": jax.ShapeDtypeStruct((8,), jnp.float32),
    }
    placed = state_sharding(mesh, shapes, fsdp_min_size=100)
    assert placed["big"].spec == jax.sharding.PartitionSpec(None, "fsdp", None)
    assert placed["odd"].is_fully_replicated and placed["small"].is_fully_replicated


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"data": 3}, "does not multiply out to the 8"), ({"data": -1, "fsdp": -1}, "one of them"), ({"fsdp": 0}, "positive")],
)
def test_meshes_that_do_not_fit(sizes, message):
    with pytest.raises(ConfigError, match=message):
        make_mesh(**sizes)


def test_batches_that_the_devices_do_not_divide():
    mesh = make_mesh()
    with pytest.raises(ConfigError, match=r"batch_size=20 does not split over 8 devices: take 16 or 24"):
        check_batch_size(mesh, 20)
    with pytest.raises(ConfigError, match=r"8 devices x 2 micro-batches: take 16\."):
        check_batch_size(mesh, 8, accumulate=2)
    with pytest.raises(ConfigError, match="batch_size=20"):
        parts_of(toy_config(data__batch_size=20))
