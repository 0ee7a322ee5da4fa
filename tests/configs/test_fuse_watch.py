"""Every fusion fits the config by its name alone, and trains; so does one sensor."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

import checks
from configs.fuse_watch import get_config
from mmjax import config
from mmjax.config import ConfigError
from mmjax.contract import MESH_AXES
from mmjax.train.build import parts_of


@pytest.fixture(scope="module")
def data():
    return parts_of(get_config("smoke")).data  # opened once


@pytest.mark.parametrize("name", config.names("fusion"))
def test_every_fusion_by_its_name(name, data):
    c = get_config("smoke")
    c.model.fusion.name = name
    parts = parts_of(c)._replace(data=data)
    with jax.set_mesh(parts.mesh), jax.numpy_dtype_promotion("standard"):
        shapes = parts.state_shapes()
    assert shapes.params["model"] and set(shapes.fitted) == {"series_accelerometer", "series_gyroscope"}


def test_one_sensor_alone(data):
    parts = parts_of(get_config("smoke,only=series_gyroscope"))
    with jax.set_mesh(parts.mesh):
        assert {name.split("_")[0] for name in parts.state_shapes().params["model"]} == {"series", "fusion", "head"}


@pytest.fixture
def one_device():
    """The mesh of a laptop, for which a program compiles in half the time; and what runs two steps need not be compiled to be fast."""
    axes = len(MESH_AXES)
    jax.config.update("jax_disable_most_optimizations", True)
    yield jax.make_mesh((1,) * axes, MESH_AXES, (AxisType.Auto,) * axes, devices=jax.devices()[:1])
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", config.names("fusion"))
def test_every_fusion_trains(name, data, one_device):
    """The second of two steps moves every parameter of the fusion: in the first one the learning rate warms up."""
    c = get_config(f"smoke,fusion={name}")
    c.objectives.auxiliary = {"name": "auxiliary"}  # decoders are trained by the losses that their fusion brings
    try:
        parts_of(c, data=data).state_shapes()
    except ConfigError as error:
        assert "no part of the model brings a loss" in str(error)
        del c.objectives.auxiliary
    parts = parts_of(c, data=data)._replace(mesh=one_device)
    with jax.set_mesh(parts.mesh), jax.numpy_dtype_promotion("standard"):  # flax's own norms mix bfloat16 and float32
        shapes, batches = parts.state_shapes(), parts.data.train_batches(parts.mesh)
        state, step = parts.init(shapes, next(batches)), parts.step(shapes)
        before = jax.device_get(state.params["model"].get("fusion", {}))
        for _ in range(2):
            state, metrics = step(state, next(batches))
    assert np.isfinite(metrics["loss"]) and metrics["loss"] > 0, metrics
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before, jax.device_get(state.params["model"].get("fusion", {})))
    still = [path for path, leaf in checks.paths(same) if leaf and not path.endswith(tuple(checks.NO_GRADIENT))]
    assert not still, still
