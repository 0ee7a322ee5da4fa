"""Linear attention and the selective state space against published code and their plain forms; padding takes no step; linear FLOPs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax import config
from mmjax.config import ConfigError
from mmjax.fusion.linear_time import LinearTime, StateSpace
from mmjax.ops.linear_time import linear_attention, selective_scan
from mmjax.study.fusions import encodings as shapes
from mmjax.testing import fusion
from torch_weights import dense, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_time.npz")


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_linear_attention_is_the_published_and_the_quadratic_form():
    q, k, v, valid = (GOLDEN[f"linear_attention/{name}"] for name in ("q", "k", "v", "valid"))
    got = checks.quick(linear_attention)(q, k, v, valid > 0)
    np.testing.assert_allclose(got, GOLDEN["linear_attention/y"], atol=1e-5)
    features = [np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))) for x in (q, k)]
    similarity = np.einsum("bmhd,bnhd->bhmn", *features) * (valid > 0)[:, None, None]
    attention = similarity / similarity.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(got, np.einsum("bhmn,bnhd->bmhd", attention, v), atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_scan_is_the_recurrence_step_by_step(reverse):
    """Not independent: the recurrence in numpy. A step of size 0 changes nothing."""
    u, b, c = drawn(2, 7, 3), drawn(2, 7, 4, seed=1), drawn(2, 7, 4, seed=2)
    delta, a = np.abs(drawn(2, 7, 3, seed=3)), -np.abs(drawn(3, 4, seed=4))
    delta[:, 2] = 0
    got = checks.quick(lambda *x: selective_scan(*x, reverse=reverse))(u, delta, a, b, c)
    state, wanted = np.zeros((2, 3, 4)), np.zeros((2, 7, 3))
    for t in range(7)[:: -1 if reverse else 1]:
        before = state
        state = np.exp(delta[:, t, :, None] * a) * state + (delta[:, t] * u[:, t])[:, :, None] * b[:, t, None]
        assert t != 2 or (state == before).all()
        wanted[:, t] = np.einsum("bds,bs->bd", state, c[:, t])
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def mamba(w, name):
    """One direction with the published parameters."""
    return {
        f"{name}_conv": {"kernel": jnp.moveaxis(w["conv1d.weight"], -1, 0).swapaxes(1, 2), "bias": w["conv1d.bias"]},
        f"{name}_select": {"kernel": w["x_proj.weight"].T},
        f"{name}_delta": dense(w, "dt_proj"),
        f"{name}_log_a": w["A_log"],
        f"{name}_skip": w["D"][None, None],
    }


def test_a_direction_is_the_published_mamba():
    """Forward, with a backward direction that gives 0; and backward on the sequence turned around."""
    w = weights(GOLDEN, "mamba")
    silent = {**w, "x_proj.weight": w["x_proj.weight"].at[-3:].set(0), "D": w["D"] * 0}
    module, valid = StateSpace(state=3, expand=2, kernel=3, dtype="float32"), jnp.ones((2, 6), bool)
    around = {"in": {"kernel": w["in_proj.weight"].T}, "out": {"kernel": w["out_proj.weight"].T}}
    run = checks.quick(lambda params, x: module.apply({"params": {**around, **params}}, x, valid))
    x, y = GOLDEN["mamba/x"], GOLDEN["mamba/y"]
    np.testing.assert_allclose(run({**mamba(w, "forward"), **mamba(silent, "backward")}, x), y, atol=1e-5)
    turned = run({**mamba(silent, "forward"), **mamba(w, "backward")}, x[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(turned, y, atol=1e-5)


def test_padding_takes_no_step():
    """Wherever invalid tokens stand: the same as without them."""
    given = encodings(audio=(4, 3), text=(3, 2))
    module = LinearTime(width=4, depth=2, state=2, kernel=3)
    variables = checks.drawn(module, given, train=False)
    keep = np.array([1, 2, 4, 7])
    e = given["audio"]

    def spread(x, fill):
        return jnp.full((x.shape[0], 8, *x.shape[2:]), fill, x.dtype).at[:, keep].set(x)

    wide = e._replace(tokens=spread(e.tokens, jnp.nan), valid=spread(e.valid, False), time=spread(e.time, jnp.nan))
    got, wanted = (fused(module, variables, {**given, "audio": audio}) for audio in (wide, e))
    np.testing.assert_allclose(got.pooled, wanted.pooled, atol=1e-5)
    np.testing.assert_allclose(got.tokens[wanted.valid.nonzero()], wanted.tokens[wanted.valid.nonzero()], atol=1e-5)


def test_in_the_order_of_time_it_does_not_matter_which_modality_a_token_came_with():
    """One stream, or the same cut in two that take turns; in the order of modalities a state space tells them apart."""
    both = encodings(audio=(6, 3), text=(6, 3))
    whole = both["audio"]._replace(valid=jnp.ones((3, 6), bool))
    odd = jnp.broadcast_to(jnp.arange(6) % 2 == 1, (3, 6))
    cut = {"audio": whole._replace(valid=~odd), "text": whole._replace(valid=odd)}
    for order, same in (("time", True), ("modality", False)):
        module = LinearTime(width=4, depth=1, state=2, kernel=3, order=order)
        params = checks.drawn(module, cut, train=False)["params"]
        params["text_in"] = params["audio_in"]
        got = fused(module, {"params": params}, cut).pooled
        wanted = fused(module, {"params": params}, {"audio": whole}).pooled
        assert (np.abs(got - wanted).max() < 1e-5) == same


@pytest.mark.parametrize("mixer", ["attention", "state_space"])
def test_flops_grow_linearly_with_the_length(mixer):
    """Twice as long costs twice as much; under attention of all to all, the growth grows."""

    def flops(module, n):
        e = shapes(1)["audio"]
        x = e._replace(tokens=jax.ShapeDtypeStruct((1, n, 8), jnp.float32), valid=jax.ShapeDtypeStruct((1, n), bool), stages=())
        x = {"audio": x._replace(pooled=jax.ShapeDtypeStruct((1, 8), jnp.float32), present=jax.ShapeDtypeStruct((1,), bool))}
        variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)
        compiled = checks.quick(lambda v, x: module.apply(v, x, train=False).pooled).lower(variables, x).compile()
        return compiled.cost_analysis()["flops"]

    def growth(module):
        few, some, many = (flops(module, n) for n in (64, 128, 256))
        return (many - some) / (some - few)

    assert 1.9 < growth(LinearTime(width=8, depth=1, mixer=mixer, heads=2, state=4)) < 2.1
    if mixer == "attention":
        quadratic = config.build("fusion", {"name": "early_transformer", "width": 8, "depth": 1, "heads": 2}, "fusion")
        assert growth(quadratic) > 2.8


def test_linear_attention_passes_the_checks_on_absence():
    module = LinearTime(width=4, depth=1, heads=2, mixer="attention", order="time")
    subject = fusion.FusionSubject(module, LinearTime.tiny()[1])
    for check in (checks.check_absent_content, checks.check_all_absent, fusion.check_every_subset, checks.check_gradients):
        check(subject)


def test_wrong_fields():
    for options, message in (
        ({"mixer": "atention"}, "fusion.mixer='atention' is unknown. Did you mean 'attention'?"),
        ({"order": "times"}, "fusion.order='times' is unknown. Did you mean 'time'?"),
        ({"mixer": "attention", "width": 6, "heads": 4}, "A width of 6 does not split into 4 heads"),
    ):
        with pytest.raises(ConfigError, match=message):
            jax.eval_shape(lambda options=options: LinearTime(**options).init(jax.random.key(0), encodings(text=(3, 4)), train=False))
