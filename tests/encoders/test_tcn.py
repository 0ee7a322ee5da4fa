"""The temporal convolutional network against one in PyTorch, and how far its tokens see."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

import checks
from mmjax.config import ConfigError
from mmjax.encoders.tcn import Tcn

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "series.npz")


def conv(name):
    prefix = f"tcn/weights/{name}"
    scale, kernel = (rearrange(GOLDEN[f"{prefix}.parametrizations.weight.original{i}"], "o i k -> k i o") for i in range(2))
    return {"kernel": kernel, "scale": scale, "bias": GOLDEN[f"{prefix}.bias"]}


def test_two_blocks_with_weight_norm():
    shortcut = {"kernel": GOLDEN["tcn/weights/0.shortcut.weight"][..., 0].T, "bias": GOLDEN["tcn/weights/0.shortcut.bias"]}
    params = {f"block_0{i}": {f"conv_{j}": conv(f"{i}.conv_{j}") for j in range(2)} for i in range(2)}
    params["block_00"]["shortcut"] = shortcut
    module = Tcn(width=8, depth=2)
    e = checks.quick(lambda params, x: module.apply({"params": params}, x, train=False))(jax.tree.map(jnp.asarray, params), GOLDEN["x"])
    np.testing.assert_allclose(e.tokens, GOLDEN["tcn/y"], atol=1e-5)
    np.testing.assert_allclose(e.pooled, GOLDEN["tcn/y"].mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_a_token_sees_as_far_as_the_docstring_says(causal):
    """1 + 2 * (3 - 1) * (2**2 - 1) = 13 steps: the last 13, or 6 on either side."""
    module, x = Tcn(width=4, depth=2, causal=causal, norm="none"), np.random.default_rng(0).normal(size=(1, 30, 2)).astype(np.float32)
    variables = checks.drawn(module, jnp.asarray(x), train=False)
    jacobian = checks.quick(jax.jacobian(lambda x: module.apply(variables, x, train=False).tokens[0, 15].sum()))
    # a ReLU may be shut to a step in one draw
    seen = sum(np.abs(jacobian(jnp.asarray(x + noise))).sum(axis=(0, 2)) for noise in np.random.default_rng(1).normal(size=(8, *x.shape)))
    assert np.flatnonzero(seen).tolist() == list(range(3, 16) if causal else range(9, 22))


def test_the_published_start_keeps_the_kernel():
    """Weight norm starts at the length that the kernel was drawn with."""
    with_norm, without = (Tcn(width=4, depth=1, norm=norm) for norm in ("weight", "none"))
    x = jnp.ones((1, 5, 2))
    params = with_norm.init(jax.random.key(0), x, train=False)["params"]
    bare = jax.tree.map(lambda x: x, params)
    for name in ("conv_0", "conv_1"):
        del bare["block_00"][name]["scale"]
    got, wanted = with_norm.apply({"params": params}, x, train=False), without.apply({"params": bare}, x, train=False)
    np.testing.assert_allclose(got.tokens, wanted.tokens, rtol=1e-5, atol=1e-6)


def test_pool_end_and_times():
    valid = jnp.array([[True] * 5, [True, True, False, False, False]])
    module, x = Tcn(width=4, depth=1, pool="end", rate=50.0), jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
    e = module.apply(checks.drawn(module, x, valid, train=False), x, valid, train=False)
    np.testing.assert_array_equal(e.pooled, np.stack([e.tokens[0, 4], e.tokens[1, 1]]))
    np.testing.assert_allclose(e.time, np.tile(np.arange(5) / 50, (2, 1)), rtol=1e-6)
    with pytest.raises(ConfigError, match="pool='max' is unknown"):
        Tcn(pool="max").init(jax.random.key(0), x, train=False)


class ByParts:
    """`Tcn.tiny`, but for what its pooled vector is made of."""

    @staticmethod
    def tiny():
        tcn, batch = Tcn.tiny()
        return tcn.clone(pool=3), batch


def test_pooled_by_parts_what_is_absent_does_not_matter_and_every_parameter_learns():
    subject = checks.of_encoder(ByParts)
    for check in (checks.check_contract, checks.check_absent_content, checks.check_gradients):
        check(subject)


def test_parts_tell_early_from_late_and_the_mean_does_not():
    bump = jnp.zeros((2, 40, 3)).at[0, 10].set(1.0).at[1, 30].set(1.0)
    for pool, apart in (("mean", False), (4, True)):
        tcn = Tcn(width=8, depth=1, pool=pool)
        pooled = tcn.apply(checks.drawn(tcn, bump, train=False), bump, train=False).pooled
        assert (float(jnp.abs(pooled[0] - pooled[1]).max()) > 1e-3) == apart


def test_strides_and_groups_leave_rows_alone():
    """A short row beside longer ones is encoded as it is alone, and its tokens are those of every third step."""
    module = Tcn(width=4, depth=2, causal=False, norm="group", stride=3, rate=30.0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 11, 3)), jnp.float32)
    valid = jnp.arange(11)[None] < jnp.array([[11], [7]])
    variables = checks.drawn(module, x, valid, train=False)
    both, alone = module.apply(variables, x, valid, train=False), module.apply(variables, x[1:, :7], train=False)
    assert both.tokens.shape == (2, 4, 4) and both.valid.tolist() == [[True] * 4, [True, True, True, False]]
    np.testing.assert_allclose(both.tokens[1, :3], alone.tokens[0], atol=1e-5)
    np.testing.assert_allclose(both.pooled[1], alone.pooled[0], atol=1e-5)
    np.testing.assert_allclose(both.time[0], [0.0, 0.1, 0.2, 0.3], atol=1e-6)
    with pytest.raises(ConfigError, match="sees what is to come"):
        Tcn(norm="group").init(jax.random.key(0), x, train=False)
    with pytest.raises(ConfigError, match="Did you mean 'group'"):
        Tcn(norm="grop").init(jax.random.key(0), x, train=False)
