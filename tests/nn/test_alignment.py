"""Alignment in time against numpy's interpolation, plain loops and the published multi-time attention; what times are where none are."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.alignment import Alignment, Kernel, TimeAttention, clock, even_steps, linear_weights, mean_weights
from mmjax.ops.masks import zero_absent
from torch_weights import dense, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_time.npz")


def drawn(rows=4, n=6, steps=5, seed=0):
    """Steps, times in order, and which of them are valid; every row has one."""
    rng = np.random.default_rng(seed)
    at, time = np.sort(rng.random((rows, steps)), axis=1), np.sort(rng.random((rows, n)), axis=1)
    valid = rng.random((rows, n)) < 0.6
    valid[:, 2] = True
    return at.astype(np.float32), time.astype(np.float32), valid


def encoding(time, valid, width=3, seed=0):
    tokens = np.random.default_rng(seed).normal(size=(*valid.shape, width)).astype(np.float32)
    tokens = jnp.where(valid[:, :, None], tokens, jnp.nan)
    return Encoding(tokens, jnp.asarray(valid), tokens[:, 0], jnp.asarray(valid.any(axis=1)), None if time is None else jnp.asarray(time))


def test_linear_is_numpys_interpolation_between_valid_tokens():
    at, time, valid = drawn()
    got = checks.quick(linear_weights)(at, np.where(valid, time, 7), valid)
    for row in range(len(at)):
        basis = np.eye(time.shape[1])[:, valid[row]]
        wanted = np.stack([np.interp(at[row], time[row][valid[row]], basis[i]) for i in range(len(basis))], axis=1)
        np.testing.assert_allclose(got[row], wanted, atol=1e-5)


def test_mean_is_of_the_tokens_nearest_to_a_step():
    at, time, valid = drawn()
    at_valid = np.arange(at.shape[1]) != 1
    got = checks.quick(mean_weights)(at, np.broadcast_to(at_valid, at.shape), time, valid)
    for row in range(len(at)):
        wanted = np.zeros((5, 6))
        for n in np.flatnonzero(valid[row]):
            wanted[min((0, 2, 3, 4), key=lambda s, now=time[row, n], steps=at[row]: abs(steps[s] - now)), n] = 1
        np.testing.assert_allclose(got[row], wanted / np.maximum(wanted.sum(axis=1, keepdims=True), 1), atol=1e-6)
    tie = mean_weights(jnp.asarray([[0, 1 / 3, 2 / 3, 1]]), jnp.ones((1, 4), bool), jnp.asarray([[0.5]]), jnp.ones((1, 1), bool))
    np.testing.assert_array_equal(tie[0, :, 0], [0, 1, 0, 0])


def test_a_kernel_is_between_the_nearest_token_and_the_mean_of_all():
    at, time, valid = drawn()
    run = checks.quick(
        lambda width: Kernel(1.0).apply({"params": {"log_width": jnp.log(width)}}, *map(jnp.asarray, (at, time, valid)))[:, 0]
    )
    distance = np.where(valid[:, None], np.abs(at[:, :, None] - time[:, None]), np.inf)
    np.testing.assert_array_equal(np.argmax(run(jnp.float32(0.01)), axis=2), np.argmin(distance, axis=2))
    wide = np.broadcast_to((valid / valid.sum(axis=1, keepdims=True))[:, None], distance.shape)
    np.testing.assert_allclose(run(jnp.float32(1e3)), wide, atol=1e-5)


def test_attention_is_the_published_multi_time_attention():
    """Theirs is behind the linear map of all heads, and has every feature twice."""
    w = weights(GOLDEN, "mtan")
    embed = {"kernel": jnp.concatenate([w["linear.weight"], w["periodic.weight"]]).T}
    embed["bias"] = jnp.concatenate([w["linear.bias"], w["periodic.bias"]])
    params = {"embed": embed, "query": dense(w, "att.linears.0"), "key": {"kernel": w["att.linears.1.weight"].T}}
    at = jnp.broadcast_to(even_steps(4), (2, 4))
    module = TimeAttention(heads=2, features=4)
    found = checks.quick(lambda *x: module.apply({"params": params}, *x))(at, GOLDEN["mtan/time"], GOLDEN["mtan/valid"] > 0)
    seen = jnp.einsum("bhsn,bnd->bshd", found, GOLDEN["mtan/x"]).reshape(2, 4, 6)
    kernel = w["att.linears.2.weight"].reshape(6, 2, 2, 3).sum(axis=2).reshape(6, 6).T
    np.testing.assert_allclose(seen @ kernel + w["att.linears.2.bias"][None, None], GOLDEN["mtan/y"], atol=1e-5)


def test_times_run_from_the_first_valid_token_of_any_modality_to_the_last():
    _, time, valid = drawn()
    given = {"audio": encoding(10 + 4 * time, valid), "text": encoding(12 + time, ~valid | (np.arange(6) == 2))}
    times = clock(zero_absent(given))
    all_times = [np.concatenate([np.asarray(e.time[row])[np.asarray(e.valid[row])] for e in given.values()]) for row in range(4)]
    for m, e in given.items():
        for row, real in enumerate(all_times):
            keep = np.asarray(e.valid[row])
            np.testing.assert_allclose(times.time[m][row][keep], (e.time[row][keep] - real.min()) / np.ptp(real), atol=1e-5)
    np.testing.assert_allclose(times.seconds(jnp.ones((4, 1)))[:, 0], [x.max() for x in all_times], rtol=1e-5)


def test_without_times_valid_tokens_stand_evenly():
    valid = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    times = clock(zero_absent({"text": encoding(None, valid)}))
    np.testing.assert_allclose(times.time["text"], [[0, 0, 0.5, 1, 0], [0, 0, 0.5, 0, 0], [0, 0, 0, 0, 0]])
    assert times.seconds(times.time["text"]) is None


@pytest.mark.parametrize("how", ["mean", "linear"])
def test_as_many_even_steps_as_tokens_change_nothing(how):
    given = {"text": encoding(None, np.ones((2, 7), bool)), "video": encoding(None, np.ones((2, 7), bool), seed=1)}
    steps = checks.quick(lambda given: Alignment(how, steps=7).apply({}, given))(given)
    for m, e in given.items():
        np.testing.assert_allclose(steps.x[m], e.tokens, atol=1e-5)


def test_steps_of_a_main_modality_and_of_a_row_that_lacks_it():
    _, time, valid = drawn()
    valid[1] = False
    given = {"audio": encoding(time, np.ones((4, 6), bool)), "text": encoding(time, valid, seed=1)}
    steps = checks.quick(lambda given: Alignment("linear", main="text").apply({}, given))(given)
    np.testing.assert_allclose(steps.x["text"], np.where(valid[:, :, None], given["text"].tokens, 0), atol=1e-5)
    np.testing.assert_allclose(np.asarray(steps.x["audio"])[valid], np.asarray(given["audio"].tokens)[valid], atol=1e-4)
    even = np.linspace(time[1].min(), time[1].max(), 6)
    np.testing.assert_allclose(steps.time[1], even, atol=1e-5)
    interpolated = [np.interp(even, time[1], np.asarray(given["audio"].tokens)[1, :, i]) for i in range(3)]
    np.testing.assert_allclose(steps.x["audio"][1].T, interpolated, atol=1e-4)
    assert steps.valid[1].all() and not steps.seen["text"][1].any()


def test_wrong_fields():
    given = {"text": encoding(None, np.ones((1, 2), bool))}
    for fields, message in (
        ({"how": "liner"}, "fusion.align='liner' is unknown. Did you mean 'linear'?"),
        ({"main": "txt"}, "fusion.main='txt' is no modality of the model. Did you mean 'text'?"),
        ({"how": "attention", "heads": 3}, "align_heads=3 do not divide the 16 features"),
    ):
        with pytest.raises(ConfigError, match=message):
            jax.eval_shape(lambda fields=fields: Alignment(**fields).init(jax.random.key(0), given))
