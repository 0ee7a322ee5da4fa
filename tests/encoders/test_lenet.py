"""What is particular to LeNet: its layers are those of scipy, and its sizes those published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

import checks
from mmjax.config import ConfigError
from mmjax.encoders.lenet import LeNet


def by_hand(x, variables):
    """The last layer of a picture [H, W, C]."""
    for i in range(len(variables["params"]) // 2):
        kernel, norm = variables["params"][f"conv_{i}"]["kernel"], variables["params"][f"norm_{i}"]["batch"]
        stats = variables["batch_stats"][f"norm_{i}"]["batch"]
        maps = [sum(correlate2d(x[..., c], k[..., c], "same") for c in range(x.shape[-1])) for k in np.moveaxis(kernel, -1, 0)]
        y = (np.stack(maps, -1) - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
        h, w = (side // 2 * 2 for side in y.shape[:2])
        x = np.maximum(y, 0)[:h, :w].reshape(h // 2, 2, w // 2, 2, -1).max(axis=(1, 3))
    return x


def test_layers_are_convolutions_norms_and_the_largest_of_four():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 11, 9, 2)).astype(np.float32)
    module = LeNet(width=2, depth=2)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.asarray(x), train=False))
    variables = jax.tree.map(lambda s: np.abs(rng.normal(size=s.shape)).astype(np.float32), shapes)
    variables["params"] = jax.tree.map(lambda p: p * rng.choice([-1, 1], p.shape).astype(np.float32), variables["params"])
    got = checks.quick(lambda x: module.apply(variables, x, train=False))(x)
    for i in range(2):
        last = by_hand(x[i].astype(np.float64), variables)
        np.testing.assert_allclose(got.tokens[i], last.reshape(-1, last.shape[-1]), atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(got.pooled[i], last.mean(axis=(0, 1)), atol=1e-4, rtol=1e-4)


def test_the_sizes_of_av_mnist():
    """Liang et al., 2021, 'MultiBench': 48 numbers of a picture of 28 x 28, 192 of a spectrogram of 112 x 112, no side left."""
    for depth, shape, channels in ((4, (1, 28, 28, 1), 48), (6, (1, 112, 112), 192)):
        encoding, variables = jax.eval_shape(
            lambda depth=depth, shape=shape: LeNet(depth=depth).init_with_output(jax.random.key(0), jnp.ones(shape), train=False)
        )
        assert encoding.pooled.shape == (1, channels) and encoding.tokens.shape == (1, 1, channels)
        convolutions = 25 * 6 + sum(9 * 2 * (6 * 2**i) ** 2 for i in range(depth - 1))
        assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == convolutions + 2 * 6 * (2**depth - 1)


def test_sides_that_are_too_short():
    with pytest.raises(ConfigError, match="depth=4 halves sides of 8 and 28 to nothing"):
        LeNet().init(jax.random.key(0), jnp.ones((1, 8, 28, 3)), train=False)
