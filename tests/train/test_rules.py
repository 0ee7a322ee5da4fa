"""Rates by depth and the last blocks, on the parameters of a real encoder."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.config import ConfigError, build
from mmjax.train.optim import Optimizer, paths
from mmjax.train.rules import last_layers, layer_decay


@pytest.fixture(scope="module")
def params():
    encoder = build("encoders", {"name": "vit", "width": 8, "depth": 3, "heads": 2, "patch": 4, "pool": "attention"}, "encoder")
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))["params"]
    return [f"model/image/{path}" for path in paths(shapes)]


def test_rates_fall_towards_the_beginning(params):
    optimizer = Optimizer(steps=1, rules=layer_decay("image", layers=3, decay=0.5, lr=2.0, weight_decay=0.1))
    for path in params:
        rule = optimizer.rule(path)
        depth = next((3 - i for i in range(3) if f"block_{i:02d}/" in path), 0 if "/pool" in path or "transformer/norm" in path else 4)
        assert rule.lr == 2.0 * 0.5**depth and not rule.freeze, path
        assert rule.decay == (0.0 if path.endswith(("/bias", "/scale")) else 0.1), path
    assert {optimizer.rule(path).lr for path in params} == {2.0, 1.0, 0.5, 0.25, 0.125}


def test_the_last_blocks_alone(params):
    optimizer = Optimizer(steps=1, rules=[*last_layers("image", layers=3, count=1), (".*", {})])
    trained = {path for path in params if not optimizer.rule(path).freeze}
    assert trained == {path for path in params if "block_02/" in path or "/pool" in path or "transformer/norm" in path}
    assert not optimizer.rule("model/text/embedding").freeze, "other parts have rules of their own"
    none = Optimizer(steps=1, rules=last_layers("image", layers=3, count=0))
    assert not any("block_" in path for path in params if not none.rule(path).freeze)


def test_impossible_depths():
    with pytest.raises(ConfigError, match="count=4 should be between 0 and layers=3"):
        last_layers("image", 3, 4)
    with pytest.raises(ConfigError, match="decay=1.5 above 0 and at most 1"):
        layer_decay("image", 3, 1.5)
