"""Operations on clips: what is read, by which formula it changes, and what cannot be read."""

import io
import math

import numpy as np
import pytest
import soundfile

from mmjax.config import ConfigError
from mmjax.data.pp import audio
from mmjax.data.pp.audio import Waveform
from mmjax.data.pp.builder import Padded, parse

RATE = 16_000


def tone(hz=440.0, seconds=0.5, rate=RATE, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples, rate=RATE, kind="WAV", **more):
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, **more)
    return out.getvalue()


def clip(**kwargs):
    return Waveform(tone(**kwargs), kwargs.get("rate", RATE))


def pitch_of(samples, rate=RATE):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * len(samples)))
    return np.argmax(spectrum) * rate / (8 * len(samples))


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("kind", "worst"), [("WAV", 1e-4), ("FLAC", 1e-4), ("OGG", 0.1), ("MP3", 0.1)])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_is_the_same_clip(kind, worst, rate, channels):
    samples = np.stack([tone(rate=rate)] * channels, axis=1)
    found = audio.decode()(encoded(samples, rate, kind))
    assert found.rate == RATE and found.samples.dtype == np.float32 and abs(len(found.samples) - 8_000) <= 2_000
    middle = slice(2_000, 6_000)
    if kind in ("WAV", "FLAC"):
        np.testing.assert_allclose(found.samples[middle], tone()[middle], atol=2e-3 if rate != RATE else worst)
    assert abs(pitch_of(found.samples[middle]) - 440) < 2 and abs(np.abs(found.samples[middle]).max() - 0.5) < worst


def test_resampling_keeps_what_fits_and_lets_nothing_alias():
    low, high = (audio.decode()(encoded(tone(hz, rate=48_000), 48_000)).samples[1_000:-1_000] for hz in (1_000, 11_000))
    np.testing.assert_allclose(np.sqrt(np.mean(low**2)), 0.5 / math.sqrt(2), rtol=1e-3)
    assert np.abs(high).max() < 1e-3


def test_arrays_need_a_rate_and_integers_are_scaled():
    whole = (tone() * 2**15).astype(np.int16)
    np.testing.assert_allclose(audio.decode(given=RATE)(whole).samples, tone(), atol=1e-4)
    with pytest.raises(ValueError, match="no rate of their own"):
        audio.decode()(whole)
    with pytest.raises(ValueError, match="choose"):
        audio.decode()([whole])
    with pytest.raises(ValueError, match=r"shape \(2, 8000\) seem to have their channels first"):
        audio.decode(given=RATE)(np.stack([whole, whole]))
    with pytest.raises(ValueError, match="signed integers, not uint8"):
        audio.decode(given=RATE)(whole.astype(np.uint8))
    with pytest.raises(ValueError, match="no samples"):
        audio.decode(given=48_000)(whole[:1])


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_clip_that_is_cut_short_is_not_read(kind):
    whole = encoded(np.random.default_rng(0).normal(0, 0.1, 16_000), kind=kind)
    audio.decode()(whole)
    for share in (0.02, 0.5, 0.9):
        with pytest.raises(ValueError, match="cut short|no audio that can be read|no samples"):
            audio.decode()(whole[: round(share * len(whole))])


def test_what_is_no_clip_is_said():
    for wrong, message in ((b"", "no audio"), (b"no audio at all" * 9, "no audio"), (encoded(np.zeros(0)), "no samples")):
        with pytest.raises(ValueError, match=message):
            audio.decode()(wrong)
    with pytest.raises(ValueError, match="not finite"):
        audio.decode()(encoded(np.array([0.1, np.nan, 0.2]), subtype="FLOAT"))
    with pytest.raises(ValueError, match="8000 samples a second, not 16000"):
        audio.decode(resample=False)(encoded(tone(rate=8_000), 8_000))
    with pytest.raises(ValueError, match="2 channels, not one"):
        audio.decode(mix=False)(encoded(np.stack([tone(), tone()], axis=1)))
    with pytest.raises(ValueError, match="decode.. comes before it"):
        audio.gain()(tone(), rng())


def test_crop_or_pad():
    found = audio.crop_or_pad(1.0)(clip(), None)
    assert isinstance(found, Padded) and found.value.shape == (RATE,) and found.valid.sum() == 8_000
    np.testing.assert_array_equal(found.value[:8_000], tone())
    ramp = Waveform(np.arange(8_000, dtype=np.float32), RATE)
    assert audio.crop_or_pad(0.1)(ramp, None).value[0] == 3_200
    starts = {audio.crop_or_pad(0.1)(ramp, np.random.default_rng(i)).value[0] for i in range(20)}
    assert len(starts) > 10 and max(starts) <= 6_400


def test_loudness():
    power = 10 * np.log10(np.mean(np.square(audio.normalise_loudness(-23)(clip(level=0.01)).samples)))
    assert abs(power + 23) < 1e-3
    peaked = Waveform(np.eye(1, 8_000, 5, dtype=np.float32)[0], RATE)
    assert abs(audio.normalise_loudness(-23, peak=-1)(peaked).samples.max() - 10 ** (-1 / 20)) < 1e-6
    silent = Waveform(np.zeros(100, np.float32), RATE)
    assert (audio.normalise_loudness()(silent).samples == 0).all() and (audio.noise(10)(silent, rng()).samples == 0).all()
    assert audio.not_silent()(silent) is None and audio.not_silent()(clip()) is not None
    with pytest.raises(ValueError, match="silent"):
        audio.not_silent(otherwise="error")(silent)


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_has_the_power_that_was_asked_for(snr):
    added = audio.noise(snr)(clip(), rng()).samples.astype(np.float64) - tone()
    assert abs(10 * np.log10(np.mean(tone().astype(np.float64) ** 2) / np.mean(added**2)) - snr) < 1e-3


def test_noise_of_no_power_changes_nothing():
    assert audio.noise(math.inf)(clip(), rng()).samples is not None
    np.testing.assert_array_equal(audio.noise(math.inf)(clip(), rng()).samples, tone())


def test_speed_changes_pitch_and_length_and_pitch_the_pitch_alone():
    fast = audio.speed(1.25, 1.25)(clip(), rng()).samples
    assert abs(len(fast) - 6_400) <= 2 and abs(pitch_of(fast) - 550) < 2
    for seed in range(4):
        factor = 2 ** (np.random.default_rng(seed).uniform(-3, 3) / 12)
        moved = audio.pitch(3)(clip(seconds=1), np.random.default_rng(seed)).samples
        assert len(moved) == RATE and abs(pitch_of(moved[2_000:-2_000]) - 440 * factor) < 4
        assert 0.25 < np.abs(moved[4_000:-4_000]).max() < 0.65


def test_shift_and_gain():
    ramp = Waveform(np.arange(1, 101, dtype=np.float32), 100)
    seen = [audio.time_shift(0.3)(ramp, np.random.default_rng(i)).samples for i in range(20)]
    for samples in seen:
        kept = samples[samples > 0]
        assert len(samples) == 100 and len(kept) >= 70 and (np.diff(kept) == 1).all()
    assert len({s.tobytes() for s in seen}) > 10
    levels = [np.abs(audio.gain(-6, 6)(clip(), np.random.default_rng(i)).samples).max() / 0.5 for i in range(40)]
    assert 0.49 < min(levels) < 0.7 and 1.5 < max(levels) < 2.01


@pytest.mark.parametrize("text", ["gain(-6, 6)", "time_shift(0.1)", "speed(0.9, 1.1)", "pitch(2)", "noise(0, 10)"])
def test_evaluation_changes_nothing(text):
    pipeline = parse(f"decode|{text}|crop_or_pad(0.5)", "audio")
    np.testing.assert_array_equal(pipeline(clip(), None).value, tone())
    assert not np.array_equal(pipeline(clip(), rng()).value, tone())


def test_one_of_several_recordings():
    clips = {"fr": [encoded(tone(300)), encoded(tone(600))], "ro": [encoded(tone(900))]}
    pipeline = parse('choose("fr")|decode|crop_or_pad(0.25)', "audio_speech")
    heard = {round(pitch_of(pipeline(clips, np.random.default_rng(i)).value), -1) for i in range(12)}
    assert heard == {300, 600} and round(pitch_of(pipeline(clips, None).value), -1) == 300
    assert parse('choose("xx")|decode|crop_or_pad(0.25)', "audio_speech")(clips, None) is None


def test_wrong_arguments():
    for text in ("decode(0)", "decode(given=0)", "crop_or_pad(-1)", "speed(0, 1)", 'not_silent(otherwise="skip")'):
        with pytest.raises(ConfigError, match="should be"):
            parse(text, "audio")
    with pytest.raises(ConfigError, match="Did you mean 'crop_or_pad'"):
        parse("decode|crop_or_pat(2)", "audio")
