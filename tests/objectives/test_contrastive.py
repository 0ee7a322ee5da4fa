"""Contrastive losses against PyTorch (`tests/golden/make_contrastive.py`) and against plain numpy."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import loss_of, start, value_and_grads
from scipy.special import expit, logsumexp

from checks import quick
from mmjax.config import ConfigError
from mmjax.objectives.contrastive import Contrastive
from mmjax.ops.contrastive import bounded_above
from mmjax.ops.masks import unit

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "contrastive.npz")
CASES = sorted(name.removesuffix("/loss") for name in GOLDEN.files if name.endswith("/loss"))
PAIR = [("image", "text")]


def embeddings(rows=6, width=4, streams=("image", "text"), seed=0):
    rng = np.random.default_rng(seed)
    return {stream: unit(jnp.asarray(rng.normal(size=(rows, width)), jnp.float32)) for stream in streams}


def term(objective, batch, params=None):
    params = start(objective, batch)[0] if params is None else params
    outputs = {f"{m}/z": z for m, z in batch.items() if "/" not in m and m[0] != "_"}
    return quick(lambda *args: loss_of(objective, *args))(params, outputs, batch)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_pytorchs(case):
    given = {key: jnp.asarray(GOLDEN[f"{case}/{key}"]) for key in ("image", "text", "log_scale", "bias") if f"{case}/{key}" in GOLDEN.files}
    objective = Contrastive(PAIR, loss=case.split("/")[0])

    def loss(given):
        params = {key: given[key] for key in ("log_scale", "bias") if key in given}
        batch = {m: unit(given[m]) for m in ("image", "text")}
        return loss_of(objective, params, {f"{m}/z": z for m, z in batch.items()}, batch).terms["image_text"]

    value, grads = quick(jax.value_and_grad(loss))(given)
    np.testing.assert_allclose(value, GOLDEN[f"{case}/loss"], rtol=2e-6)
    for key, grad in grads.items():
        wanted = GOLDEN[f"{case}/grad_{key}"]
        np.testing.assert_allclose(grad, wanted, atol=3e-6 * max(1, np.abs(wanted).max()))


def reference(kind, z_a, z_b, key_a, key_b, both, scale, bias):
    """Over the rows that have both sides, by loops over rows and pairs."""
    rows = np.flatnonzero(both)
    logits, positive = scale * z_a @ z_b.T + bias, key_a[:, None] == key_b[None, :]
    if kind == "sigmoid":
        pairs = [math.log(expit(logits[i, j] if positive[i, j] else -logits[i, j])) for i in rows for j in rows]
        return -sum(pairs) / max(len(rows), 1)
    sides = []
    for l, p in ((logits, positive), (logits.T, positive.T)):
        per_row = []
        for i in rows:
            right = [j for j in rows if p[i, j]]
            per_row.append(np.mean([logsumexp(l[i, rows]) - l[i, j] for j in right]))
        sides.append(np.mean(per_row) if per_row else 0.0)
    return sum(sides) / 2


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("keys", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 1, 0], [7, 7, 7, 7, 7, 7]], ids=str)
def test_several_positives_and_absent_sides(kind, keys):
    batch = embeddings()
    here = {"image": np.array([1, 1, 1, 0, 1, 1], bool), "text": np.array([1, 0, 1, 1, 1, 1], bool)}
    real = np.array([1, 1, 1, 1, 1, 0], bool)
    full = {**batch, **{f"{m}/present": jnp.asarray(v) for m, v in here.items()}, "_mask": jnp.asarray(real)}
    full |= {f"{m}/key": jnp.array(keys, jnp.int32) for m in here}
    loss = term(Contrastive(PAIR, loss=kind, init_scale=5.0, init_bias=-2.0), full)
    z_a, z_b = (np.asarray(batch[m], np.float64) for m in ("image", "text"))
    both = here["image"] & here["text"] & real
    wanted = reference(kind, z_a, z_b, np.array(keys), np.array(keys), both, 5.0, -2.0 if kind == "sigmoid" else 0.0)
    np.testing.assert_allclose(loss.terms["image_text"], wanted, rtol=1e-5)
    assert float(loss.weight) == both.sum() == 3
    subset = {m: z[both] for m, z in batch.items()} | {f"{m}/key": jnp.array(keys, jnp.int32)[both] for m in here}
    alone = term(Contrastive(PAIR, loss=kind, init_scale=5.0, init_bias=-2.0), subset)
    np.testing.assert_allclose(loss.terms["image_text"], alone.terms["image_text"], rtol=1e-6)
    np.testing.assert_allclose(loss.metrics["image_text/accuracy"], alone.metrics["image_text/accuracy"])


def test_accuracy_counts_any_positive():
    z = jnp.eye(4, dtype=jnp.float32)
    batch = {"image": z, "text": z[jnp.array([0, 2, 1, 3])]}
    assert term(Contrastive(PAIR), batch).metrics["image_text/accuracy"] == 0.5
    keys = {f"{m}/key": jnp.array([0, 1, 1, 3], jnp.int32) for m in ("image", "text")}
    assert term(Contrastive(PAIR), {**batch, **keys}).metrics["image_text/accuracy"] == 1


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_nothing_present_is_a_finite_zero(kind):
    batch = embeddings() | {"text/present": jnp.zeros(6, bool)}
    objective = Contrastive(PAIR, loss=kind)
    outputs = {f"{m}/z": jnp.full_like(batch[m], jnp.nan) for m in ("image", "text")}
    (total, loss), grads = quick(value_and_grads(objective))(start(objective, batch)[0], outputs, batch)
    assert total == 0 and loss.weight == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_finite_at_the_temperature_clip_with_identical_embeddings(kind):
    same = jnp.broadcast_to(embeddings()["image"][:1], (6, 4))
    batch = {"image": same, "text": same}
    objective = Contrastive(PAIR, loss=kind)
    params = {**start(objective, batch)[0], "log_scale": jnp.float32(50.0)}
    (total, loss), grads = quick(value_and_grads(objective))(params, {f"{m}/z": z for m, z in batch.items()}, batch)
    np.testing.assert_allclose(loss.metrics["scale"], 100, rtol=1e-6)
    assert np.isfinite(total) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    if kind == "softmax":
        np.testing.assert_allclose(total, math.log(6), rtol=1e-5)


def test_at_its_limit_the_temperature_can_only_come_back():
    """A step of descent is against the gradient: a positive one lowers the value and passes, a negative one is held."""

    def slope(x, sign):
        return jax.grad(lambda x: sign * bounded_above(x, 2.0))(jnp.float32(x))

    assert (slope(1.0, 1.0), slope(1.0, -1.0)) == (1.0, -1.0)
    for x in (2.0, 5.0):
        assert (slope(x, 1.0), slope(x, -1.0)) == (1.0, 0.0)
        assert bounded_above(jnp.float32(x), 2.0) == 2.0


def test_descent_comes_back_from_above_the_limit():
    batch = {"image": jnp.eye(4, dtype=jnp.float32), "text": jnp.eye(4, dtype=jnp.float32)[::-1]}  # all wrong: colder is worse
    objective = Contrastive(PAIR)
    _, (grads, _) = quick(value_and_grads(objective))({"log_scale": jnp.float32(6.0)}, {f"{m}/z": z for m, z in batch.items()}, batch)
    assert grads["log_scale"] > 0


def test_pairs_are_averaged_and_share_scale_and_bias():
    batch = embeddings(streams=("audio", "image", "text")) | {"audio/present": jnp.arange(6) < 2}
    pairs = [("image", "text"), ("audio", "text")]
    both = term(Contrastive(pairs, loss="sigmoid"), batch)
    alone = [term(Contrastive([pair], loss="sigmoid"), batch) for pair in pairs]
    for pair, loss in zip(pairs, alone, strict=True):
        name = "_".join(pair)
        np.testing.assert_allclose(both.terms[name], loss.terms[name] / 2, rtol=1e-6)
    assert both.weight == (6 + 2) / 2
    params, aux = start(Contrastive(pairs, loss="sigmoid"), batch)
    assert aux == () and params["bias"] == -10  # Zhai et al., 2023, sec. 3.2
    np.testing.assert_allclose(params["log_scale"], math.log(10), rtol=1e-6)
    np.testing.assert_allclose(start(Contrastive(pairs), batch)[0]["log_scale"], math.log(1 / 0.07), rtol=1e-6)


def test_a_hub_and_all_pairs_are_their_lists():
    batch = embeddings(streams=("audio", "image", "series", "text")) | {"audio/present": jnp.arange(6) % 2 == 0}
    lists = {
        "hub:image": [("audio", "image"), ("image", "series"), ("image", "text")],
        "all": [("audio", "image"), ("audio", "series"), ("audio", "text"), ("image", "series"), ("image", "text"), ("series", "text")],
    }
    for name, pairs in lists.items():
        short, long = term(Contrastive(name), batch), term(Contrastive(pairs), batch)
        assert list(short.terms) == [f"{a}_{b}" for a, b in pairs]
        jax.tree.map(np.testing.assert_array_equal, short, long)
    with pytest.raises(ConfigError, match=r"'imag', which the model does not embed. It embeds: audio, image"):
        start(Contrastive("hub:imag"), batch)
    with pytest.raises(ConfigError, match="'image' alone: there is no pair"):
        start(Contrastive("all"), embeddings(streams=("image",)))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_devices_that_hold_different_subsets_of_the_modalities_give_the_loss_of_one(kind):
    """Of eight devices some hold no sound at all, some no text: counts are of the whole batch, not of each device's part."""
    streams = ("audio", "image", "series", "text")
    batch = dict(embeddings(rows=16, streams=streams))
    row = np.arange(16)
    here = {"audio": row % 5 == 1, "text": (row < 4) | (row > 9), "series": row < 9, "image": row != 7}
    batch |= {f"{m}/present": jnp.asarray(v) for m, v in here.items()}
    batch |= {f"{m}/key": jnp.asarray(row // 3, jnp.int32) for m in streams}
    objective = Contrastive("all", loss=kind)
    outputs = {f"{m}/z": batch[m] for m in streams}
    params = start(objective, batch)[0]

    def total(outputs, params, batch):
        loss = loss_of(objective, params, outputs, batch)
        return sum(loss.terms.values()), loss

    step = quick(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with jax.set_mesh(mesh):
        sharded = step(jax.device_put(outputs, split), params, jax.device_put(batch, split))
    wanted = step(outputs, params, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), jax.device_get(sharded), jax.device_get(wanted))
    for a, b in (("audio", "text"), ("image", "series")):
        both = here[a] & here[b]
        args = [np.asarray(outputs[f"{m}/z"], np.float64) for m in (a, b)]
        scale, bias = math.exp(params["log_scale"]), float(params.get("bias", 0.0))
        np.testing.assert_allclose(
            wanted[0][1].terms[f"{a}_{b}"] * 6, reference(kind, *args, row // 3, row // 3, both, scale, bias), rtol=1e-4
        )


def test_wrong_names():
    with pytest.raises(ConfigError, match="loss='triplet'"):
        Contrastive(PAIR, loss="triplet")
    for pairs in ([], [("image",)], ["image"], "image", ""):
        with pytest.raises(ConfigError, match="list of two streams each"):
            Contrastive(pairs)
    with pytest.raises(ConfigError, match=r"'audio', which the model does not embed. It embeds: image, text"):
        start(Contrastive([("image", "audio")]), embeddings())
