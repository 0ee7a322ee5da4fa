"""MCTN against its equations written out, what its targets change, and that it learns to translate there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import checks
from made import encodings, fused
from mmjax.fusion.concat import Concat
from mmjax.fusion.mctn import Mctn
from mmjax.testing import fusion

MODULE = Mctn(main="text", width=3)
X = encodings(rows=5, audio=(4, 2), text=(3, 4), video=(2, 3))
VARIABLES = checks.drawn(MODULE, X, train=False)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def written_out(p, x):
    """What one row's valid tokens give, {modality: [n, D]}, one after the other: pooled, the joint sequence, and the losses."""

    def dense(layer, x):
        return x @ layer["kernel"] + layer.get("bias", 0)

    def step(layer, gates, state):
        i, f, g, o = np.split(gates + dense(layer["recurrent"], state[0]), 4)
        cell = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(cell), cell

    def encode(name, layer, inputs):
        state, found = (np.zeros(3), np.zeros(3)), []
        for token in inputs:
            state = step(p[name]["step"], dense(p[layer], token), state)
            found.append(state[0])
        return np.stack(found)

    def decode(name, memory, length, out):
        layer, state, found = p[name], (np.zeros(3), np.zeros(3)), []
        for _ in range(length):
            score = [
                dense(layer["step"]["score"], np.tanh(dense(layer["keys"], m) + dense(layer["step"]["query"], state[0])))[0] for m in memory
            ]
            weights = np.exp(score) / np.exp(score).sum()
            state = step(layer["step"]["lstm"], dense(layer["step"]["context"], weights @ memory), state)
            found.append(dense(p[out], state[0]))
        return np.stack(found)

    joint = encode("encoder", "text_in", x["text"])
    audio = decode("decoder_audio", joint, len(x["audio"]), "audio_out")
    back = decode("decoder_audio", encode("encoder", "audio_in", audio), len(x["text"]), "text_out")
    second = encode("encoder_video", "video_in", joint)
    video = decode("decoder_video", second, len(x["video"]), "video_out")
    made = {"translation_audio": (audio, "audio"), "cycle": (back, "text"), "translation_video": (video, "video")}
    return encode("pool", "pool_in", second)[-1], second, {name: np.square(y - x[m]).mean() for name, (y, m) in made.items()}


def test_the_equations_written_out():
    """Not independent: numpy by the paper's equations and a row's valid tokens alone, as the published code asks for Keras of 2018."""
    e = fused(MODULE, VARIABLES, X)
    p = jax.tree.map(np.asarray, VARIABLES["params"])
    for row in range(5):
        pooled, joint, losses = written_out(p, {m: np.asarray(x.tokens[row][x.valid[row]]) for m, x in X.items()})
        np.testing.assert_allclose(e.pooled[row], pooled, atol=1e-5)
        np.testing.assert_allclose(e.tokens[row][e.valid[row]], joint, atol=1e-5)
        for name, wanted in losses.items():
            np.testing.assert_allclose(e.aux[name][row], wanted, rtol=1e-4)


def test_targets_change_their_losses_and_nothing_else_and_bring_none_where_they_are_absent():
    """In row 0 other content, row 1 without audio, row 2 without video, row 3 without both, row 4 without the source."""
    changed = {m: e._replace(tokens=e.tokens.at[0].add(1)) if m != "text" else e for m, e in X.items()}
    for m, rows in {"audio": [1, 3], "video": [2, 3], "text": [4]}.items():
        changed[m] = changed[m]._replace(present=jnp.ones(5, bool).at[jnp.array(rows)].set(False))
    wanted, got = fused(MODULE, VARIABLES, X), fused(MODULE, VARIABLES, changed)
    for part in ("pooled", "tokens"):
        np.testing.assert_allclose(getattr(got, part)[:4], getattr(wanted, part)[:4], atol=1e-6)
    assert got.present.all() and got.valid[4].sum() == 1 and got.valid[4, -1] and np.abs(got.pooled[4]).max() > 1e-3
    here = {"translation_audio": [0, 2], "cycle": [0, 2], "translation_video": [0, 1]}
    for name, rows in here.items():
        loss = np.asarray(got.aux[name])
        assert (loss[rows] > 0).all() and not np.delete(loss, rows).any()
        np.testing.assert_allclose(loss[rows[1]], wanted.aux[name][rows[1]], rtol=1e-5)
        changes = name != "cycle"  # which is of what the source gives, not of the target
        assert np.isclose(loss[0], wanted.aux[name][0], rtol=1e-5) != changes


def test_what_is_to_be_met_gets_no_gradient():
    def loss(tokens):
        given = {m: X[m]._replace(tokens=x) for m, x in tokens.items()}
        return sum(value.sum() for value in MODULE.apply(VARIABLES, given, train=True).aux.values())

    grads = checks.quick(jax.grad(loss))({m: X[m].tokens for m in ("audio", "text")})
    assert not grads["audio"].any() and grads["text"].any()


def test_it_learns_to_translate_there_and_back():
    """The target is the source in another order, mapped: both losses fall to a fraction of what the best constant leaves, about 1."""
    rng = np.random.default_rng(0)
    x, turned = rng.normal(size=(16, 2, 2)).astype(np.float32), np.array([[0.6, 0.8], [-0.8, 0.6]], np.float32)
    given = encodings(rows=16, audio=(2, 2), text=(2, 2))
    tokens = {"text": x, "audio": x[:, ::-1] @ turned}
    given = {m: e._replace(tokens=jnp.asarray(tokens[m]), valid=jnp.ones((16, 2), bool)) for m, e in given.items()}
    module, tx = Mctn(main="text", width=16), optax.adam(0.02)

    def loss(params):
        aux = {name: value.mean() for name, value in module.apply({"params": params}, given, train=True).aux.items()}
        return sum(aux.values()), aux

    @checks.quick
    def trained(params):
        def step(carry, _):
            params, state = carry
            grads, aux = jax.grad(loss, has_aux=True)(params)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), aux

        return jax.lax.scan(step, (params, tx.init(params)), None, length=75)[1]

    with jax.numpy_dtype_promotion("standard"):
        losses = trained(checks.quick(lambda: module.init(jax.random.key(0), given, train=True))()["params"])
    for name in ("translation_audio", "cycle"):
        assert losses[name][0] > 0.7 and losses[name][-1] < 0.1, name


class Lying(Concat):
    source_only = True


def test_a_class_that_is_source_only_reads_no_other():
    with pytest.raises(AssertionError, match="pooled depends on .*source_only"):
        fusion.checks.check_content_matters(fusion.of_fusion(Lying))
