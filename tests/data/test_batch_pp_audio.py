"""Spectra on the device against librosa's and torchaudio's (`tests/golden/make_mel.py`), ragged clips, masks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.config import ConfigError
from mmjax.contract import BATCH_AXES
from mmjax.data.batch_pp import BatchPP
from mmjax.data.batch_pp.audio import log_mel, mfcc, spec_augment
from mmjax.testing.checks import quick
from mmjax.train.sharding import make_mesh

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "mel.npz")
CLIP = GOLDEN["clip"]
SCALES = {"slaney": {"scale": "slaney", "norm": True}, "htk": {"scale": "htk", "norm": False}}


def alone(op, clip, **kwargs):
    return quick(lambda x: op(x, jnp.ones(x.shape, bool), jnp.ones(1, bool), None)[0][0])(jnp.asarray(clip)[None])


@pytest.mark.parametrize("library", ["librosa", "torchaudio"])
@pytest.mark.parametrize("scale", SCALES)
def test_the_libraries_give_the_same(library, scale):
    wanted = GOLDEN[f"{library}/{scale}/mel"]
    found = alone(log_mel(40, floor=1e-12, **SCALES[scale]), CLIP)
    np.testing.assert_allclose(jnp.exp(found), np.maximum(wanted, 1e-12), rtol=1e-4, atol=1e-4 * wanted.max())
    np.testing.assert_allclose(found, np.log(np.maximum(wanted, 1e-12)), atol=1e-2)  # a relative error of the softest, too
    wanted = GOLDEN[f"{library}/{scale}/mfcc"]
    np.testing.assert_allclose(alone(mfcc(13, mels=40, **SCALES[scale]), CLIP), wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("op", [log_mel(20), mfcc(8, mels=20)], ids=["log_mel", "mfcc"])
def test_a_padded_clip_gives_what_it_gives_alone(op):
    lengths = [4_000, 3_999, 1, 0]
    valid = np.arange(4_000)[None, :] < np.array(lengths)[:, None]
    x = np.where(valid, CLIP[:4_000], np.nan).astype(np.float32)
    here = np.array([True, True, True, True])
    found, frames = quick(lambda x, v: op(x, v, jnp.asarray(here), None))(jnp.asarray(x), jnp.asarray(valid))
    assert np.isfinite(found).all()
    for row, n in enumerate(lengths):
        count = 1 + n // 160 if n else 0
        assert frames[row].sum() == count and (np.asarray(found)[row, count:] == 0).all()
        if n:
            np.testing.assert_allclose(found[row, :count], alone(op, CLIP[:n])[:count], rtol=1e-4, atol=1e-4)
    gone, frames = quick(lambda x, v: op(x, v, jnp.zeros(4, bool), None))(jnp.asarray(x), jnp.asarray(valid))
    assert not frames.any() and (np.asarray(gone) == 0).all()


def test_every_device_computes_its_own_rows():
    mesh, op = make_mesh(data=4, fsdp=2), log_mel(20)
    x = np.random.default_rng(0).normal(size=(8, 1_600)).astype(np.float32)
    run = jax.jit(lambda x: op(x, jnp.ones(x.shape, bool), jnp.ones(len(x), bool), None)[0])
    wanted = run(x)
    with jax.set_mesh(mesh):
        program = run.lower(jax.device_put(x, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))).compile()
    assert "all-gather" not in program.as_text() and "all-reduce" not in program.as_text()
    np.testing.assert_allclose(program(jax.device_put(x, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))), wanted, atol=1e-5)


def test_masks_cover_stripes_with_the_mean_and_are_never_drawn_in_evaluation():
    op = spec_augment(2, time=10, frequency=4)
    x = jnp.asarray(np.random.default_rng(0).normal(3.0, 1.0, (64, 40, 16)), jnp.float32)
    valid = jnp.asarray(np.arange(40)[None, :] < np.linspace(8, 40, 64)[:, None])
    here = jnp.ones(64, bool)
    seen, same = quick(lambda key: op(x, valid, here, key))(jax.random.key(0))
    assert (same == valid).all()
    masked = np.asarray(valid)[:, :, None] & (np.asarray(seen) != np.asarray(x))
    for row in range(64):
        n = int(valid[row].sum())
        inside = masked[row, :n]
        over_time, over_frequency = inside.all(axis=1), inside.all(axis=0)
        assert (inside == (over_time[:, None] | over_frequency[None, :])).all(), "stripes, and nothing else"
        assert over_time.sum() <= 2 * min(10, n // 2) and over_frequency.sum() <= 8
        np.testing.assert_allclose(np.asarray(seen)[row, :n][inside], np.asarray(x)[row, :n].mean(), rtol=1e-5)
    assert len({masked[row, :8].tobytes() for row in range(64)}) > 32, "of every clip others"
    assert 2.0 < masked.all(axis=2).sum(axis=1)[-16:].mean() < 12.0
    assert op(x, valid, here, None)[0] is x


def test_in_a_config():
    pp = BatchPP({"audio": "log_mel(20)|normalise|spec_augment(1, 4, 2)"}, known=["audio"])
    batch = {"audio": np.tile(CLIP[None], (2, 1)), "audio/valid": np.ones((2, len(CLIP)), bool), "audio/present": np.ones(2, bool)}
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    out = pp(batch, pp.fit(lambda: [batch]))
    assert out["audio"].shape == (2, 51, 20) and out["audio/valid"].shape == (2, 51)
    np.testing.assert_allclose(np.asarray(out["audio"]).reshape(-1, 20).std(axis=0), 1, rtol=1e-3)
    for wrong, message in {
        "log_mel(400)": "400 mels are too many",
        "log_mel(20, scale='bark')": "scale='bark' is unknown",
        "log_mel(20, high=9_000.0)": "up to half of the rate",
        "log_mel(20, window=25.0, fft=512)": "shorter than the window",
        "log_mal(20)": "Did you mean 'log_mel'",
    }.items():
        with pytest.raises(ConfigError, match=message):
            BatchPP({"audio": wrong}, known=["audio"])
