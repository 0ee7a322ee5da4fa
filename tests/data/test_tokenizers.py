"""Ids and back, for every script, and a vocabulary that is the same every time."""

import json

import numpy as np
import pytest

from mmjax.config import ConfigError, DataError
from mmjax.data.tokenizers import BEGIN, END, PAD, Tokenizer, make_tokenizer

SCRIPTS = [
    "plain words, and 1,234 numbers.",
    "  leading, double  and trailing ",
    "Größe naïve œuvre İstanbul",
    "Ελληνικά Русский עברית العربية हिन्दी ไทย 日本語 한국어 𐎠𐎡",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪",
    "e\u0301 \u202eright to left\u202c \ufeff \u200b \ufffd",
    "\x00\x01\x7f\x80\xff \u2028 \U0010ffff",
    "<pad><begin><end> Ġ Ċ",
    "Ã© â‚¬ ðŸ˜€",  # UTF-8 read as Latin-1: bytes that look like bytes
    "",
]
THINGS = [f"{colour} {thing}" for colour in ("red", "blue") for thing in ("cat", "dog", "owl")]
TEXTS = [f"a {size} {thing} with a {size} hat" for size in ("small", "big") for thing in THINGS]


@pytest.fixture(scope="module", params=["byte", "bpe"])
def tokenizer(request):
    return make_tokenizer(TEXTS, request.param, vocab=300)


@pytest.mark.parametrize("text", SCRIPTS)
def test_every_string_comes_back_unchanged(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode([BEGIN, *ids, END, PAD]) == text
    assert all(END < i < tokenizer.vocab for i in ids)


def test_the_pieces_of_a_text_are_the_text(tokenizer):
    text = TEXTS[0]
    pieces = tokenizer.pieces([BEGIN, *tokenizer.encode(text), END, PAD])
    assert pieces[0] == "<begin>" and pieces[-2:] == ["<end>", "<pad>"] and "".join(pieces[1:-2]) == text
    assert tokenizer.pieces(tokenizer.encode("a油é")) == ["a", "<e6>", "<b2>", "<b9>", "<c3>", "<a9>"]


def test_random_code_points_come_back(tokenizer):
    points = np.random.default_rng(0).integers(1, 0x110000, 3_000)
    text = "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bytes_are_one_id_each():
    tokenizer = make_tokenizer([])
    assert tokenizer.vocab == 259
    for text in SCRIPTS:
        assert len(tokenizer.encode(text)) == len(text.encode())
    every = [tokenizer.encode(chr(i))[-1] for i in range(128)]
    assert len(set(every)) == 128


def test_half_a_character_decodes_to_a_replacement():
    tokenizer = make_tokenizer([])
    assert tokenizer.decode(tokenizer.encode("a😀")[:-1]) == "a\ufffd"


def test_training_is_deterministic_and_shortens_what_it_was_trained_on(tmp_path):
    once, twice = (make_tokenizer(iter(TEXTS), "bpe", 320) for _ in range(2))
    once.save(tmp_path / "a" / "tokenizer.json")
    twice.save(tmp_path / "b" / "tokenizer.json")
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()
    assert once.fingerprint == twice.fingerprint != make_tokenizer(TEXTS[:6], "bpe", 320).fingerprint
    assert 259 < once.vocab <= 320
    assert all(len(once.encode(text)) < len(text) / 2 for text in TEXTS)


def test_the_vocabulary_is_an_upper_limit():
    assert make_tokenizer(TEXTS, "bpe", 265).vocab == 265
    assert make_tokenizer(["ab ab"], "bpe", 1_000).vocab < 270
    assert make_tokenizer([], "bpe", 1_000).vocab == 259
    with pytest.raises(ConfigError, match="vocab=259 leaves no room"):
        make_tokenizer(TEXTS, "bpe", 259)


def test_stored_and_read_again_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (again.vocab, again.fingerprint) == (tokenizer.vocab, tokenizer.fingerprint)
    assert all(again.encode(text) == tokenizer.encode(text) for text in [*SCRIPTS, *TEXTS])
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_damaged_file_is_named(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    whole = path.read_text()
    foreign = {**json.loads(whole), "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "added_tokens": []}
    for damaged in ("", whole[: len(whole) // 2], "{}", json.dumps(foreign)):
        path.write_text(damaged)
        with pytest.raises(DataError, match=r"tokenizer\.json is no tokenizer file"):
            Tokenizer.load(path)
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path / "missing" / "tokenizer.json")


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean 'bpe'\?"):
        make_tokenizer([], "bpee")
