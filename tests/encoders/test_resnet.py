"""What is particular to residual networks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

import checks
from mmjax.config import ConfigError
from mmjax.encoders.resnet import Bottleneck, Norm, ResNet

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "nn.npz")
NORMS = ("norm_1", "norm_2", "norm_3", "norm_shortcut")


def bottleneck():
    prefix = "bottleneck/weights/"
    w = {name.removeprefix(prefix): jnp.asarray(GOLDEN[name]) for name in GOLDEN.files if name.startswith(prefix)}
    convs = {name: rearrange(w[f"{name}.weight"], "d c h w -> h w c d") for name in ("conv_1", "conv_2", "conv_3", "conv_shortcut")}
    params = {name: {"kernel": kernel} for name, kernel in convs.items()}
    params |= {name: {"batch": {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}} for name in NORMS}
    stats = {name: {"batch": {"mean": w[f"{name}.running_mean"], "var": w[f"{name}.running_var"]}} for name in NORMS}
    variables = {"params": params, "batch_stats": stats}
    return Bottleneck(4, 2, "batch", "float32"), variables, rearrange(GOLDEN["bottleneck/x"], "b c h w -> b h w c")


def test_the_bottleneck_is_torchs():
    module, variables, x = bottleneck()
    got = checks.quick(lambda x: module.apply(variables, x, jnp.ones(3, bool), train=False))(x)
    np.testing.assert_allclose(got, rearrange(GOLDEN["bottleneck/y"], "b c h w -> b h w c"), atol=1e-5)


def test_the_bottleneck_is_torchs_in_training_with_absent_rows_between():
    module, variables, x = bottleneck()
    spread = np.full((5, *x.shape[1:]), 100.0, np.float32)
    here = np.array([True, False, True, True, False])
    spread[here] = x
    got, stats = checks.quick(lambda x, here: module.apply(variables, x, here, train=True, mutable="batch_stats"))(spread, here)
    np.testing.assert_allclose(got[here], rearrange(GOLDEN["bottleneck_train/y"], "b c h w -> b h w c"), atol=2e-5)
    after, before = stats["batch_stats"]["norm_2"]["batch"], variables["batch_stats"]["norm_2"]["batch"]
    np.testing.assert_allclose(after["mean"], GOLDEN["bottleneck_train/mean"], atol=1e-6)
    # torch keeps the unbiased variance, flax the biased one
    count = got[here].size // got.shape[-1]
    unbiased = 0.9 * before["var"] + (after["var"] - 0.9 * before["var"]) * count / (count - 1)
    np.testing.assert_allclose(unbiased, GOLDEN["bottleneck_train/var"], atol=1e-5)


def test_resnet_50_has_as_many_parameters_as_published():
    """25,557,032 in torchvision's resnet50, less the 2,049,000 of its classifier."""
    shapes = jax.eval_shape(lambda: ResNet(norm="batch").init(jax.random.key(0), jnp.ones((1, 32, 32, 3)), train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 23_508_032


def test_group_norm_has_no_statistics():
    class Group:
        @staticmethod
        def tiny():
            return ResNet(width=4, depths=(1,), norm="group", stem="imagenet"), ResNet.tiny()[1]

    subject = checks.of_encoder(Group)
    assert set(subject.variables) == {"params"}
    for check in (checks.check_contract, checks.check_absent_content, checks.check_all_absent, checks.check_gradients):
        check(subject)
    # the stem and its pooling leave a quarter of 16 x 16
    assert subject.evaluate(subject.variables, subject.batch).tokens.shape == (4, 4 * 4, 16)


def test_groups_divide_the_channels():
    for channels, groups in ((48, 16), (6, 2)):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, channels)), jnp.float32)
        variables = {"params": {"group": {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}}}
        y = checks.quick(lambda x, v=variables: Norm("group", "float32").apply(v, x, jnp.ones(2, bool), train=False))(x)
        np.testing.assert_allclose(rearrange(y, "b h w (g c) -> (b g) (h w c)", g=groups).mean(axis=1), 0, atol=1e-5)


@pytest.mark.parametrize(("changes", "message"), [({"norm": "layer"}, "norm='layer'"), ({"stem": "big"}, "stem='big'")])
def test_wrong_names(changes, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: ResNet(**changes).init(jax.random.key(0), jnp.ones((1, 8, 8, 3)), train=False))
