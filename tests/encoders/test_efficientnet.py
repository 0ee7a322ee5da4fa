"""EfficientNet-Lite: its matrix products are convolutions, and a frozen tower that sees a batch in parts sees what it sees whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.encoders import efficientnet_lite
from mmjax.encoders.efficientnet_lite import PART, EfficientnetLite, Pointwise, in_parts

X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2 * PART, 16, 16, 3)), jnp.float32)


def test_a_pointwise_product_is_the_convolution():
    x = X[:2]
    variables = Pointwise(5, "float32").init(jax.random.key(0), x)
    wanted = jax.lax.conv_general_dilated(x, variables["params"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(Pointwise(5, "float32").apply(variables, x), wanted, atol=1e-6)


def test_a_frozen_tower_in_parts_is_the_tower(monkeypatch):
    tower = EfficientnetLite(width_factor=0.5, stages=((3, 1, 1, 16, 1), (5, 2, 2, 16, 2)), frozen=True)
    present = jnp.arange(len(X)) % 5 != 0
    given = X.at[0].set(jnp.nan)
    variables = tower.init(jax.random.key(0), X[:1], train=False)
    run = lambda x, present: checks.quick(lambda v, x: tower.apply(v, x, None, present, train=True))(variables, x)  # noqa: E731
    assert in_parts(len(X)) and not in_parts(PART) and not in_parts(PART + 1)
    got = run(given, present)
    monkeypatch.setattr(efficientnet_lite, "PART", len(X))
    wanted = run(given, present)
    assert len(got.stages) == len(wanted.stages) == 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, wanted)


@pytest.mark.parametrize("axis", ["data", "fsdp"])
def test_rows_that_are_split_over_devices_stay_where_they_are(axis):
    from mmjax.train.sharding import make_mesh

    with jax.set_mesh(make_mesh(**{"data": 1, "fsdp": 1} | {axis: 8})):
        assert not in_parts(len(X))
