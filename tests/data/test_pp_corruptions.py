"""Corruptions: nothing at their neutral value, more at higher severities, the same in every run, and shapes that stay."""

import numpy as np
import pytest

from mmjax.config import ConfigError
from mmjax.data.pp.audio import Waveform
from mmjax.data.pp.builder import Padded, inserted, parse
from mmjax.evals.noise import BEFORE, USUAL

RNG = np.random.default_rng(0)
NEUTRAL = {"jpeg": "100", "white_noise": "1e999"}  # of the others it is 0
WORDS = "a wooden clothes hanger that somebody has left in the hall of an old house"


def example(stream):
    t = np.linspace(0, 30, 400, dtype=np.float32)
    return {
        "image": np.kron(RNG.integers(0, 255, (6, 8, 3)), np.ones((5, 5, 1))).astype(np.uint8),
        "audio": Waveform(np.sin(40 * t) * np.sin(t), 16_000),
        "text": WORDS,
        "series": Padded(np.stack([np.sin(t), 5 + np.cos(t), 9 * t], axis=1), np.arange(400) < 300),
    }[stream]


def array(x):
    return np.asarray(x.samples if isinstance(x, Waveform) else x.value if isinstance(x, Padded) else x, np.float64)


CASES = [(stream, name) for stream, of in USUAL.items() for name in of]


@pytest.mark.parametrize(("stream", "name"), CASES)
def test_the_neutral_value_changes_nothing(stream, name):
    """MultiBench's noise at level 0 silences every clip; here it is the input itself."""
    x = example(stream)
    assert parse(f"{name}({NEUTRAL.get(name, '0')})", stream)(x, None) is x


@pytest.mark.parametrize(("stream", "name"), CASES)
def test_more_is_worse_and_always_the_same(stream, name):
    x, distances = example(stream), []
    for severity in USUAL[stream][name]:
        once, again = (parse(f"{name}({severity!r})", stream)(x, None) for _ in range(2))
        if stream == "text":
            assert once == again and once.strip()
            distances.append(len(WORDS) + 1 if once == WORDS else len(set(WORDS.split()) & set(once.split())))
            continue
        np.testing.assert_array_equal(array(once), array(again))
        assert type(once) is type(x) and array(once).shape == array(x).shape
        if stream == "image":
            assert once.dtype == np.uint8
        if isinstance(x, Padded):
            np.testing.assert_array_equal(once.valid, x.valid)
            np.testing.assert_array_equal(once.value[~x.valid], x.value[~x.valid])
        distances.append(-float(np.abs(array(once) - array(x)).mean()))
    assert distances == sorted(distances, reverse=True) and distances[0] != distances[-1], distances


def test_what_the_units_mean():
    x = example("audio")
    noise = array(parse("white_noise(0)", "audio")(x, None)) - x.samples
    assert np.mean(noise**2) == pytest.approx(np.mean(array(x) ** 2), rel=1e-5)  # equal power
    quiet = parse("silence(0.25)", "audio")(Waveform(np.ones(400, np.float32), 16_000), None)
    assert (quiet.samples == 0).mean() == 0.25
    half = parse("drop_out(0.5)", "series")(Padded(np.ones((400, 2), np.float32), np.arange(400) < 200), None)
    assert (half.value[:200] == 0).all(axis=1).mean() == 0.5 and (half.value[200:] == 1).all()
    noisy = parse("sensor_noise(2)", "series")(
        Padded(np.tile([[0.0, 0.0], [1.0, 10.0]], (2_000, 1)).astype(np.float32), np.ones(4_000, bool)), None
    )
    np.testing.assert_allclose((noisy.value - np.tile([[0.0, 0.0], [1.0, 10.0]], (2_000, 1))).std(axis=0), [1, 10], rtol=0.05)
    covered = parse("occlude(0.25)", "image")(np.zeros((40, 40, 3), np.uint8), None)
    assert (covered == 127).all(axis=2).mean() == 0.25


def test_examples_differ_and_silence_stays_silent():
    a, b = (parse("drop_out(0.5)", "series")(Padded(np.full((400, 1), v, np.float32), np.ones(400, bool)), None).value == 0 for v in (1, 2))
    assert (a != b).any()
    mute = Waveform(np.zeros(100, np.float32), 16_000)
    assert (parse("white_noise(0)", "audio")(mute, None).samples == 0).all()
    assert parse("lose_words(1)", "text")("one two", None) in ("one", "two") and parse("typos(1)", "text")("a", None).strip()


def test_where_a_corruption_is_put():
    assert inserted('choose("a|b")|lower|tokens(64)', "typos(0.1)", ("tokens",)) == "choose('a|b')|lower|typos(0.1)|tokens(64)"
    assert inserted("decode|resize(8)", "blur(0.1)", BEFORE["image"]) == "decode|resize(8)|blur(0.1)"
    for last in BEFORE["image"]:  # what comes out of them are no pixels
        assert inserted(f"decode|resize(8)|{last}", "blur(0.1)", BEFORE["image"]) == f"decode|resize(8)|blur(0.1)|{last}"
    with pytest.raises(ConfigError, match="should be from 0 to 1"):
        parse("occlude(1.5)", "image")
