"""What is particular to windows, and to spectrograms in them; that they are Swin's and HTSAT's, `tests/weights/test_clap.py` shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.config import ConfigError
from mmjax.encoders.swin import Swin, apart, stretched, ways
from mmjax.nn.adapters import Adapters

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.uniform(-1, 1, (4, 16, 32, 3)), jnp.float32)
SMALL = {"patch": 2, "width": 8, "depths": (2, 1), "heads": (1, 2), "window": 4}


def test_images_pass_every_check_too():
    class Images:
        @staticmethod
        def tiny():
            return Swin(**SMALL), {"image": np.asarray(IMAGE)}

    subject = checks.of_encoder(Images)
    for check in (checks.check_contract, checks.check_absent_content, checks.check_all_absent, checks.check_gradients):
        check(subject)


def test_a_block_sees_its_window_and_the_next_block_half_of_the_others():
    """Of 2 x 4 windows; the last row and column of a rolled image do not see the first."""
    seen = {}
    for depth in (1, 2):
        module = Swin(**{**SMALL, "depths": (depth,), "heads": (1,)})
        variables = checks.drawn(module, IMAGE, train=False)
        encode = checks.quick(lambda x, module=module, variables=variables: module.apply(variables, x, train=False).stages[-1])
        moved = np.abs(encode(IMAGE[:1]) - encode(IMAGE[:1].at[0, 0, 0].add(1.0))).max(axis=-1).reshape(8, 16)
        seen[depth] = moved > 1e-6
    window, shifted = np.zeros((2, 8, 16), bool)
    window[:4, :4], shifted[:6, :6] = True, True
    np.testing.assert_array_equal(seen[1], window)
    np.testing.assert_array_equal(seen[2], shifted)


def test_the_way_between_two_places_has_one_entry_of_the_table():
    """Of a larger window's table a smaller one takes the middle; two places of a rolled window are apart where the roll joined them."""
    table = ways(2, 3)
    assert (np.diag(table) == 12).all() and len(np.unique(table)) == 9  # no way at all is the middle of 5 x 5
    assert table[0, 1] == 11 and table[0, 2] == 12 - 5 and table[3, 0] == 12 + 5 + 1
    joined = apart(4, 4, 2, 1)
    assert not joined[0].any() and joined[3].sum() == 12 and joined[1].sum() == 8


def test_rows_are_drawn_out_from_their_own_lengths():
    """A line away from the ends, to within what a = -3/4 makes of one; from as many frames to as many nothing changes."""
    t = np.arange(40, dtype=np.float32)[None, :, None]
    x = jnp.concatenate([jnp.asarray(t), jnp.asarray(np.where(t < 20, 2 * t, np.nan))])
    valid = jnp.asarray(np.arange(40) < np.array([40, 20])[:, None])
    y = np.asarray(stretched(jnp.where(valid[:, :, None], x, 0), valid, 79))[..., 0]
    np.testing.assert_allclose(y[0, 2:-2], np.arange(79)[2:-2] / 2, atol=1e-4)
    np.testing.assert_allclose(y[1, [0, -1]], [0, 38], atol=1e-4)
    assert np.abs(y[1] - np.arange(79) * 38 / 78).max() < 0.2
    np.testing.assert_array_equal(stretched(x[:1], valid[:1], 40), x[:1])
    holes = jnp.asarray([[True, False, True, True]])
    np.testing.assert_array_equal(stretched(jnp.asarray([[[1.0], [9.0], [2.0], [3.0]]]), holes, 3)[0, :, 0], [1, 2, 3])


def test_a_prefix_is_not_for_windows():
    module = Swin(**SMALL)
    adapters = Adapters([(".*/attention", {"name": "prefix", "length": 2})])
    own = adapters.init(jax.random.key(0), module, IMAGE, train=False)
    with pytest.raises(ConfigError, match="nor for one with relative positions"), adapters.applied(own):
        jax.eval_shape(lambda: module.init(jax.random.key(0), IMAGE, train=False))


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({"heads": (1,)}, (1, 16, 16, 3), r"depths=\(2, 1\) and heads=\(1,\) should be as many"),
        ({}, (1, 17, 16, 3), "patches of 2 x 2 do not divide 17 x 16"),
        ({}, (1, 24, 24, 3), "windows of 4 x 4 do not divide 6 x 6"),
        ({"window": 5}, (1, 10, 10, 3), "squares of 2 x 2 do not divide 5 x 5"),
        ({"size": 16}, (1, 20, 6), "6 mel bins should divide size=16, and be a multiple of the 4 of one token"),
        ({"size": 16}, (1, 33, 8), "33 frames is longer than the 32 of size=16"),
    ],
)
def test_what_does_not_fit(changes, shape, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: Swin(**{**SMALL, **changes}).init(jax.random.key(0), jnp.ones(shape), train=False))
