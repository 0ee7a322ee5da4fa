"""Operations on series: what they keep, what they draw, and what becomes of NaN."""

import numpy as np
import pytest

from mmjax.config import ConfigError, DataError
from mmjax.data.examples import Examples, Unreadable
from mmjax.data.pp.builder import Padded, parse


def op(text, stream="series"):
    return parse(text, stream)


def rng(seed=0):
    return np.random.default_rng(seed)


RAMP = np.stack([np.arange(50), 100 - np.arange(50), np.ones(50)], axis=1).astype(np.float32)
HOLED = RAMP.copy()
HOLED[:2, 0], HOLED[10:13, 1], HOLED[20] = np.nan, np.inf, np.nan


def test_a_window_is_the_middle_in_evaluation_and_anywhere_in_training():
    middle = op("window(20)")(RAMP, None)
    np.testing.assert_array_equal(middle.value, RAMP[15:35])
    assert middle.valid.all() and middle.value.dtype == np.float32
    window, draw = op("window(20)"), rng()
    starts = {int(window(RAMP, draw).value[0, 0]) for _ in range(400)}
    assert starts == set(range(31))


def test_a_shorter_series_ends_in_padding_that_is_not_valid():
    for draw in (None, rng()):
        value, valid = op("window(64)")(RAMP, draw)
        np.testing.assert_array_equal(value[:50], RAMP)
        assert valid[:50].all() and not valid[50:].any() and (value[50:] == 0).all()


def test_an_empty_series_and_a_window_without_a_valid_sample_are_absent():
    assert op("window(4)")(RAMP[:0], None) is None
    assert op("finite('gap')|window(1)")(HOLED[20:21], None) is None
    assert op("window(2)")(Padded(RAMP, np.arange(50) > 40), None) is None


@pytest.mark.parametrize("text", ["jitter(0.5)", "scale(0.5)"])
def test_augmentations_draw_in_training_alone_and_keep_what_is_valid(text):
    np.testing.assert_array_equal(op(text)(RAMP, None), RAMP)
    drawn = [op(text)(RAMP, rng(seed)) for seed in (0, 0, 1)]
    assert drawn[0].dtype == np.float32 and not np.allclose(drawn[0], RAMP) and not np.allclose(drawn[0], drawn[2])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    padded = op(f"window(64)|{text}")(RAMP, rng())
    assert padded.valid.sum() == 50 and not np.allclose(padded.value[:50], RAMP)


def test_jitter_is_noise_of_that_deviation():
    noise = op("jitter(0.3)")(np.zeros((20_000, 2)), rng())
    assert noise.std() == pytest.approx(0.3, rel=0.02) and abs(noise.mean()) < 0.01


def test_scale_is_one_factor_a_channel_around_one():
    scale, draw = op("scale(0.1)"), rng()
    factors = np.stack([scale(np.ones((2, 4)), draw) for _ in range(2_000)])
    np.testing.assert_array_equal(factors[:, 0], factors[:, 1])
    assert factors.mean() == pytest.approx(1, abs=0.01) and factors.std() == pytest.approx(0.1, rel=0.05)
    assert abs(np.corrcoef(factors[:, 0, 0], factors[:, 0, 1])[0, 1]) < 0.1


def test_resample_keeps_slow_waves_and_removes_what_would_alias():
    t = np.arange(500) / 50
    waves = np.stack([np.sin(2 * np.pi * f * t) for f in (1, 23)], axis=1)
    found = op("resample(50, 20)")(waves, None)
    assert found.shape == (200, 2) and found.dtype == np.float32
    inside = slice(20, 180)
    np.testing.assert_allclose(found[inside, 0], np.sin(2 * np.pi * np.arange(200) / 20)[inside], atol=0.02)
    assert np.abs(found[inside, 1]).max() < 0.1  # by plain picking it would be a wave of 3 Hz, as large as before
    np.testing.assert_allclose(op("resample(50, 100)")(waves, None)[40:-40:2, 0], waves[20:-20, 0], atol=0.02)
    assert op("resample(50, 20)")(np.full((1, 3), 7.0), None).shape == (1, 3)


def test_resample_takes_what_is_valid_along():
    found = op("resample(50, 25)")(Padded(RAMP, np.arange(50) < 30), None)
    np.testing.assert_array_equal(found.valid, np.arange(25) < 15)


@pytest.mark.parametrize("text", ["window(20)", "jitter(0.1)", "scale(0.1)", "resample(50, 25)", "finite", "statistics"])
def test_what_is_not_finite_is_said_with_its_place_and_the_remedy(text):
    with pytest.raises(DataError, match=r"is nan at sample 0 of 50, channel 0"):
        op(text)(HOLED, None)
    with pytest.raises(DataError, match=r"is inf at sample 3 of 5, channel 1|at sample 3"):
        op(text)(HOLED[7:12], rng())


def test_the_remedy_is_named():
    with pytest.raises(DataError, match=r"Begin the operations with finite\('skip'\) .* finite\('gap'\)"):
        op("window(20)")(HOLED, None)
    with pytest.raises(ConfigError, match="'hold' should be one of error, skip, gap"):
        op("finite('hold')")


def test_gaps_are_marked_and_hold_the_last_number():
    value, valid = op("finite('gap')")(HOLED, None)
    np.testing.assert_array_equal(np.flatnonzero(~valid), [0, 1, 10, 11, 12, 20])
    assert np.isfinite(value).all()
    assert (value[:2, 0] == 2).all() and (value[10:13, 1] == RAMP[9, 1]).all()
    np.testing.assert_array_equal(value[20], RAMP[19])
    np.testing.assert_array_equal(value[valid], RAMP[valid])
    assert op("finite('gap')")(np.full((3, 2), np.nan), None) is None
    one_dead = RAMP.copy()
    one_dead[:, 2] = np.nan
    assert op("finite('gap')")(one_dead, None) is None  # no sample is whole


def test_gaps_go_through_the_operations_behind():
    value, valid = op("finite('gap')|resample(50, 50)|scale(0.0)|window(60)")(HOLED, rng())
    np.testing.assert_array_equal(np.flatnonzero(~valid[:50]), [0, 1, 10, 11, 12, 20])
    assert np.isfinite(value).all() and not valid[50:].any()


class Series:
    """Ten series, the third with a hole in it."""

    fingerprint = "series"

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return {"series": HOLED if i == 3 else RAMP, "id": f"recording {i}"}

    def describe(self):
        return {}


def examples(text):
    return Examples(Series(), {"series": op(text)}, split="train", seed=0)


def test_an_error_stops_the_run_a_skip_is_counted_and_a_gap_is_in_the_batch():
    with pytest.raises(DataError, match="Item 3 of the train split: The series is nan at sample 0"):
        examples("window(50)").read(3)
    skipping = examples("finite('skip')|window(50)")
    with pytest.raises(Unreadable, match="recording 3: ValueError: The series is nan at sample 0"):
        skipping.read(3)
    assert list(skipping.unreadable) == [3]
    gaps = examples("finite('gap')|window(50)")
    batch = gaps.collate([gaps.read(i) for i in range(10)])
    assert batch["series"].shape == (10, 50, 3) and batch["series/valid"].dtype == bool
    np.testing.assert_array_equal((~batch["series/valid"]).sum(axis=1), [0, 0, 0, 6, 0, 0, 0, 0, 0, 0])


def test_what_is_no_series_is_said():
    with pytest.raises(ConfigError, match=r"should be \[T, C\], samples and channels, not \[5\]"):
        op("window(3)")(np.zeros(5), None)


def test_statistics_are_of_what_is_valid():
    found = op("statistics")(Padded(RAMP, np.arange(50) < 10), None)
    np.testing.assert_allclose(found[[0, 1, 2]], [4.5, 95.5, 1])
    np.testing.assert_allclose(found[3:6], [np.std(np.arange(10))] * 2 + [0], rtol=1e-6)
    np.testing.assert_allclose(found[6:], [0, 91, 1, 9, 100, 1, 1, 1, 0])
    np.testing.assert_allclose(op("statistics")(RAMP[:1], None), [*RAMP[0], 0, 0, 0, *RAMP[0], *RAMP[0], 0, 0, 0])
