"""On the device: what is drawn and when, what is fitted on which examples, and which modalities are dropped how often."""

import sys
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config import ConfigError, DataError
from mmjax.data.batch_pp import BatchPP
from mmjax.data.loader import Data
from mmjax.train.sharding import make_mesh

ROWS, TIME, CHANNELS = 8, 6, 3


def series_batch(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    valid = np.arange(TIME)[None] < rng.integers(1, TIME + 1, (rows, 1))
    x = np.where(valid[..., None], rng.normal(3, 5, (rows, TIME, CHANNELS)), np.nan).astype(np.float32)
    return {"series": x, "series/valid": valid, "series/present": np.arange(rows) % 4 != 1}


class Records:
    """Series and images; of each series the last positions are not real, and every fifth example has none."""

    fingerprint = "records"

    def __init__(self, split, size=40, nan=()):
        self.split, self.size, self.nan = split, size, nan

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        rng = np.random.default_rng((i, len(self.split)))
        x = rng.normal((1, -2, 0), (1, 3, 0), (TIME, CHANNELS)).astype(np.float32)
        if i in self.nan:
            x[0, 0] = np.nan
        return {"series": None if i % 5 == 0 else (x, 1 + i % TIME), "image": rng.integers(0, 256, (2, 2, 3), np.uint8)}

    def describe(self):
        return {}


@pytest.fixture
def own(monkeypatch):
    """A user's operations, on the host and on the device, and a source."""
    from mmjax.data.pp.builder import Padded

    module = ModuleType("own_ops")

    def noise(scale=1.0):
        def op(x, valid, present, key):
            return (x if key is None else x + scale * jax.random.normal(key, x.shape)), valid

        return op

    def halved():
        return lambda x, valid, present, key: (x[:, ::2], valid[:, ::2])

    def padded():
        return lambda x: Padded(np.where(np.arange(TIME)[:, None] < x[1], x[0], np.nan).astype(np.float32), np.arange(TIME) < x[1])

    def jitter():
        return lambda x, rng: x if rng is None else (x[0] + 100, x[1])

    module.noise, module.halved, module.padded, module.jitter, module.Records = noise, halved, padded, jitter, Records
    monkeypatch.setitem(sys.modules, "own_ops", module)


def data(**changes):
    pp = {"series": "own_ops.jitter|own_ops.padded", "image": "value_range(0, 1)"}
    return Data(**{"source": {"name": "own_ops:Records"}, "pp": pp, "batch_size": 8, "threads": 1, **changes})


def test_images_become_floats_and_nothing_else_changes():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1)
    batch = {"image": levels, "video": levels[None], "image_depth": levels.astype(np.float32), "text": np.ones((1, 3), np.int32)}
    out = jax.jit(BatchPP())(batch)
    np.testing.assert_allclose(out["image"], levels / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(out["video"][0], out["image"])
    assert all(out[name] is not None and np.array_equal(out[name], batch[name]) for name in ("image_depth", "text"))
    assert set(out) == set(batch)


def test_what_is_drawn_is_of_the_key_the_row_and_the_stream_and_nothing_in_evaluation(own):
    x = np.zeros((4, TIME, CHANNELS), np.float32)
    batch = {"series_gyro": x, "series_accel": x}
    pp = BatchPP(dict.fromkeys(batch, "own_ops.noise|own_ops.noise(0.5)"), known=batch)
    run = jax.jit(pp)
    first, again, other = (run(batch, {}, jax.random.key(k)) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    drawn = [first["series_gyro"], first["series_accel"], other["series_gyro"]]
    rows = np.concatenate([np.asarray(a).reshape(4, -1) for a in drawn])
    assert len(np.unique(rows.round(4), axis=0)) == 12, "every row of every stream in every step is another"
    assert np.std(rows) == pytest.approx(np.sqrt(1.25), rel=0.15), "two operations of one name draw apart"
    for name, value in pp(batch).items():
        np.testing.assert_array_equal(value, batch.get(name, True))


def test_positions_can_become_fewer_and_absent_streams_are_left_alone(own):
    batch = {"series": np.zeros((2, 6, 1), np.float32), "text": np.zeros((2, 3), np.int32)}
    pp = BatchPP({"series": "own_ops.halved", "series_gyro": "own_ops.noise"}, known=("series", "series_gyro", "text"))
    out = pp(batch, {}, jax.random.key(0))
    assert out["series"].shape == (2, 3, 1) and out["series/valid"].shape == (2, 3) and "series_gyro" not in out


@pytest.mark.parametrize("shards", [1, 3])
def test_normalisation_is_over_valid_positions_of_present_rows(shards):
    batch = series_batch(24)
    op = BatchPP({"series": "normalise"}, known=["series"])
    parts = [{name: value[i::shards] for name, value in batch.items()} for i in range(shards)]
    fitted = op.fit(lambda: parts)
    keep = batch["series/valid"] & batch["series/present"][:, None]
    mean, std = batch["series"][keep].mean(0), batch["series"][keep].std(0)
    np.testing.assert_allclose(fitted["series"]["0_normalise"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(fitted["series"]["0_normalise"]["std"], std, rtol=1e-5)
    out = jax.jit(op)(batch, fitted)["series"]
    np.testing.assert_allclose(out[keep], (batch["series"][keep] - mean) / std, atol=1e-5)
    shapes = jax.eval_shape(lambda batch: op.fit(lambda: [batch]), batch)
    assert jax.tree.map(jnp.shape, fitted) == jax.tree.map(lambda s: s.shape, shapes)


def test_a_far_mean_costs_no_precision_and_what_never_changes_is_zero():
    x = (1e4 + np.random.default_rng(0).normal(size=(64, TIME, 2))).astype(np.float32)
    x[..., 1] = 7
    op = BatchPP({"series": "normalise"}, known=["series"])
    fitted = op.fit(lambda: [{"series": x[:40]}, {"series": x[40:]}])
    np.testing.assert_allclose(fitted["series"]["0_normalise"]["std"], x.astype(np.float64).std((0, 1)), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(op({"series": x}, fitted)["series"][..., 1], 0, atol=1e-5)


def test_waveforms_have_one_channel_and_an_operation_sees_what_those_before_it_give():
    rng = np.random.default_rng(0)
    batch = {"audio": rng.normal(2, 3, (4, 50)).astype(np.float32), "image": rng.integers(0, 256, (4, 5, 5, 3), np.uint8)}
    op = BatchPP({"audio": "normalise|normalise", "image": "normalise"}, known=batch)
    fitted = op.fit(lambda: [batch])
    assert fitted["audio"]["0_normalise"]["std"].item() == pytest.approx(batch["audio"].std(), rel=1e-5)
    assert fitted["audio"]["1_normalise"]["std"].item() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(fitted["image"]["0_normalise"]["mean"], batch["image"].mean((0, 1, 2)) / 127.5 - 1, rtol=1e-5)
    np.testing.assert_allclose(op(batch, fitted)["audio"].std(), 1, rtol=1e-4)


def test_statistics_are_of_all_training_examples_without_augmentation(own, monkeypatch):
    mesh, source = make_mesh(), Records("train")
    fitted = data(batch_pp={"series": "normalise"}).fitted(mesh)
    rows = [row["series"][0][: row["series"][1]] for row in map(source.__getitem__, range(40)) if row["series"] is not None]
    np.testing.assert_allclose(fitted["series"]["0_normalise"]["mean"], np.concatenate(rows).mean(0), atol=1e-5)
    np.testing.assert_allclose(fitted["series"]["0_normalise"]["std"], np.concatenate(rows).std(0), atol=1e-5)
    assert data().fitted(mesh) == {}

    monkeypatch.setattr("mmjax.data.loader.FITTED_ON", 16)
    few, again, other = (data(batch_pp={"series": "normalise"}, seed=seed).fitted(mesh) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, few, again)
    means = [float(f["series"]["0_normalise"]["mean"][1]) for f in (fitted, few, other)]
    assert len(set(means)) == 3, "a part of the examples, drawn by the seed"


def test_values_that_are_no_numbers_are_an_error(own):
    bad = data(source={"name": "own_ops:Records", "nan": (7,)}, batch_pp={"series": "normalise"})
    with pytest.raises(DataError, match="data.batch_pp.series: what normalise fits is not finite"):
        bad.fitted(make_mesh())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_pp": {"sereis": "normalise"}}, "data.batch_pp.sereis: data.pp has no such stream. Did you mean 'series'"),
        ({"batch_pp": {"series": "normalize"}}, "data.batch_pp.series: 'normalize' is no operation on series. Did you mean 'normalise'"),
        ({"batch_pp": {"series": "normalise(3)"}}, "data.batch_pp.series: normalise.3.: too many"),
        ({"batch_pp": {"series": "normalise|"}}, "data.batch_pp.series='normalise|' does not parse"),
        ({"batch_pp": "normalise"}, "data.batch_pp='normalise' should name the streams"),
        ({"batch_pp": {"label": "normalise"}, "pp": {"label": "index"}}, "no operations for streams of kind 'label'"),
        ({"modality_dropout": {"audio": 0.3}}, "data.modality_dropout.audio: there is no such modality.* Known: image, series"),
        ({"modality_dropout": {"image": 1.3}}, "should be a probability"),
        ({"modality_dropout": "all"}, "should be a probability"),
    ],
)
def test_what_is_wrong_is_said_before_data_is_read(own, changes, message):
    with pytest.raises(ConfigError, match=message):
        data(**changes)


def test_modalities_are_dropped_as_often_as_stated_and_never_all():
    rows = 40_000
    here = np.ones((3, rows), bool)
    here[2, ::2] = False  # half of the rows have but the first two
    here[:, :8] = False
    names, p = ("audio", "image", "text"), np.array([0.3, 0.6, 0.8])
    batch = {name: np.zeros((rows, 1, 1, 1), np.float32) for name in names} | {f"{m}/present": h for m, h in zip(names, here, strict=True)}
    pp = BatchPP(modality_dropout=dict(zip(names, p.tolist(), strict=True)), known=names)
    out = jax.jit(pp)(batch, {}, jax.random.key(3))
    kept = np.stack([out[f"{m}/present"] for m in names])
    assert not (kept & ~here).any() and kept[:, 8:].any(0).all() and not kept[:, :8].any()
    for third in (False, True):
        chosen = here[2] == third
        chosen[:8] = False
        has = [0, 1, 2] if third else [0, 1]
        wanted = p[has] - p[has].prod() / len(has)
        np.testing.assert_allclose(1 - kept[has][:, chosen].mean(1), wanted, atol=0.012)
    np.testing.assert_array_equal(out["audio"], batch["audio"])
    untouched = pp(batch)
    assert all(np.array_equal(untouched[f"{m}/present"], h) for m, h in zip(names, here, strict=True)), "evaluation drops nothing"


def test_one_number_is_for_all_modalities_and_targets_are_none():
    batch = {"image": np.zeros((64, 1, 1, 1)), "text": np.zeros((64, 1), np.int32), "label": np.zeros(64, np.int32)}
    out = BatchPP(modality_dropout=1.0, known=batch)(batch, {}, jax.random.key(0))
    assert np.array_equal(out["image/present"], ~out["text/present"]) and 0 < out["image/present"].sum() < 64
    assert "label/present" not in out
    alone = BatchPP(modality_dropout={"image": 1.0}, known=batch)(batch, {}, jax.random.key(0))
    assert not alone["image/present"].any() and "text/present" not in alone


def test_rotate_turns_every_row_its_own_way_and_by_at_most_so_much():
    """Lengths and handedness stay, the two triples of a row are turned alike, and evaluation is left alone."""
    pp = BatchPP({"series": "rotate(30)"}, known=["series"])
    x = jnp.broadcast_to(jnp.concatenate([jnp.eye(3), jnp.eye(3)], axis=1), (50, 3, 6))
    assert (pp({"series": x})["series"] == x).all()
    turned = np.asarray(pp({"series": x}, key=jax.random.key(0))["series"]).reshape(50, 3, 2, 3)
    np.testing.assert_array_equal(turned[:, :, 0], turned[:, :, 1])
    turns = turned[:, :, 0]
    np.testing.assert_allclose(turns @ turns.swapaxes(1, 2), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(turns), 1, atol=1e-5)
    angles = np.degrees(np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert 20 < angles.max() <= 30.1 and angles.min() < 10 and len(np.unique(angles.round(3))) > 45


def test_rotate_wants_triples():
    pp = BatchPP({"series": "rotate(10)"}, known=["series"])
    with pytest.raises(ConfigError, match="by threes: 4 are none"):
        pp({"series": jnp.zeros((2, 5, 4))})
