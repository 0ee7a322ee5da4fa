"""Text operations: which text is chosen, what becomes of it, and what ids it has."""

import time
from collections import Counter

import numpy as np
import pytest

from mmjax.config import ConfigError
from mmjax.data.pp.builder import parse
from mmjax.data.tokenizers import BEGIN, END, PAD, make_tokenizer

BYTES = make_tokenizer([])
NAMES = {"en": ["grinning face", "happy", "smile"], "de": ["grinsendes Gesicht"], "fr": "visage rieur", "fi": []}


def run(text, x, rng=None):
    return parse(text, "text", {"tokenizer": BYTES})(x, rng)


def draws(text, x, n=300):
    pipeline = parse(text, "text", {"tokenizer": BYTES})
    return Counter(pipeline(x, np.random.default_rng(seed)) for seed in range(n))


@pytest.mark.parametrize(
    ("text", "x", "first", "all_of_them"),
    [
        ('choose("en")', NAMES, "grinning face", {"grinning face", "happy", "smile"}),
        ('choose("en", aliases=False)', NAMES, "grinning face", {"grinning face"}),
        ('choose("de", "en", aliases=False)', NAMES, "grinsendes Gesicht", {"grinsendes Gesicht", "grinning face"}),
        ('choose("fr")', NAMES, "visage rieur", {"visage rieur"}),
        ('choose("ja", "fr")', NAMES, "visage rieur", {"visage rieur"}),
        ("choose", NAMES, "grinning face", {"grinning face", "happy", "smile", "grinsendes Gesicht", "visage rieur"}),
        ("choose", ["one", "two"], "one", {"one", "two"}),
        ("choose(aliases=False)", ["one", "two"], "one", {"one"}),
        ("choose", "alone", "alone", {"alone"}),
        ('choose("ja")', NAMES, None, {None}),
        ('choose("fi")', NAMES, None, {None}),
        ("choose", [], None, {None}),
        ("choose", {}, None, {None}),
        ('choose("ja")|lower|tokens(8)', NAMES, None, {None}),
    ],
)
def test_choose(text, x, first, all_of_them):
    assert run(text, x) == first
    assert set(draws(text, x)) == all_of_them


def test_choose_draws_languages_evenly_and_then_their_texts():
    found = draws('choose("en", "de")', NAMES, 600)
    assert 240 < found["grinsendes Gesicht"] < 360 and all(60 < found[name] < 140 for name in NAMES["en"])


def test_lower_and_prompt():
    assert run("lower", "GROẞE Ärger") == "große ärger"
    assert run('prompt("a drawing of {}", "{}!")|lower', "A {0} Cat") == "a drawing of a {0} cat"
    assert set(draws('prompt("a drawing of {}", "{}!")', "cat")) == {"a drawing of cat", "cat!"}


def test_words_are_dropped_at_the_stated_rate_in_order_and_never_all():
    words = [f"w{i}" for i in range(50)]
    text = " ".join(words)
    assert run("words_dropped(0.9)", text) == text
    kept = [run("words_dropped(0.3)", text, np.random.default_rng(seed)).split() for seed in range(100)]
    assert all(k == sorted(k, key=words.index) for k in kept)
    assert 0.66 < np.mean([len(k) / 50 for k in kept]) < 0.74
    assert set(draws("words_dropped(1.0)", "one two")) == {"one two"}
    assert set(draws("words_dropped(0.5)", "one two")) == {"one", "two", "one two"}


def test_tokens_stand_between_begin_and_end_and_are_padded():
    value, valid = run("tokens(8)", "abc")
    assert value.dtype == np.int32 and valid.dtype == bool
    np.testing.assert_array_equal(value, [BEGIN, *BYTES.encode("abc"), END, PAD, PAD, PAD])
    np.testing.assert_array_equal(valid, [True] * 5 + [False] * 3)


@pytest.mark.parametrize("length", [3, 6, 8, 9])
def test_what_is_cut_keeps_its_end(length):
    value, valid = run(f"tokens({length})", "abcdef")
    np.testing.assert_array_equal(value, [BEGIN, *BYTES.encode("abcdef")[: length - 2], END, PAD][:length])
    assert valid.sum() == min(length, 8)


@pytest.mark.parametrize("text", ["", " ", "\t\n\r ", "\u00a0\u2003", "\x1f", "\x00\x07"])
def test_a_blank_text_is_an_error(text):
    with pytest.raises(ValueError, match="empty"):
        run("tokens(8)", text)


def test_what_is_no_string_says_how_to_choose_one():
    with pytest.raises(ValueError, match=r"list, not a string: choose one of several by choose\(\)"):
        parse("tokens(8)", "text", {"tokenizer": BYTES}).ops[0].__wrapped__(["a"])


def test_white_space_and_control_characters_are_one_space():
    np.testing.assert_array_equal(run("tokens(16)", " a \t\r\n b\u00a0c ")[0], run("tokens(16)", "a b c")[0])
    value, valid = run("tokens(16)", "\x7fa\x00\x07 \x1bb\u200b\x9f")
    assert BYTES.decode(value[valid]) == "a b\u200b", "what scripts and emoji are joined by stays"


@pytest.mark.parametrize("text", ["x" * 100_000, "word " * 20_000, "\U0001f600" * 25_000, " " * 100_000 + "x", "\x00" * 100_000 + "x"])
def test_a_long_text_is_quick(text):
    begin = time.perf_counter()
    value, valid = run("tokens(24)", text)
    assert time.perf_counter() - begin < 5  # what is quadratic takes minutes
    assert value[valid][-1] == END


def test_special_tokens_in_a_text_stay_text():
    value, valid = run("tokens(40)", "a <end><pad> <begin>b")
    assert not np.isin(value[1 : valid.sum() - 1], [PAD, BEGIN, END]).any()
    assert BYTES.decode(value[valid]) == "a <end><pad> <begin>b"


def test_half_a_character_is_an_error_and_no_crash():
    with pytest.raises(TypeError):
        run("tokens(8)", "half a \ud83d pair")


@pytest.mark.parametrize("length", [-1, 0, 2])
def test_a_length_without_room_is_refused(length):
    with pytest.raises(ConfigError, match="leaves no room"):
        run(f"tokens({length})", "a")
