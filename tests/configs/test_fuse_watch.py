"""Every fusion fits the config by its name alone, and trains; so does one sensor."""

import jax
import numpy as np
import pytest

from configs.fuse_watch import get_config
from mmjax import config
from mmjax.config import changed
from mmjax.train.build import parts_of
from mmjax.train.loop import train


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


@pytest.mark.slow
@pytest.mark.parametrize("name", config.names("fusion"))
def test_every_fusion_trains_a_step(name, tmp_path):
    """And is evaluated, with sensors missing, too."""
    c = changed(get_config("smoke").to_dict(), {"model.fusion.name": name, "steps": 1})
    with jax.numpy_dtype_promotion("standard"):
        results = train(c, tmp_path)
    assert {"test/classification/accuracy", "test/missing/macro_f1"} <= set(results), sorted(results)
    assert all(np.isfinite(value) for value in results.values() if isinstance(value, float))
