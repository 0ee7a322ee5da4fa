"""Ids and back, for every script, and a vocabulary that is the same every time."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from mmjax.config import ConfigError, DataError
from mmjax.data.pp.text import tokens
from mmjax.data.tokenizers import BEGIN, END, PAD, Tokenizer, from_file, make_tokenizer

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


PRETRAINED = Path(__file__).parents[1] / "golden" / "tokenizers"
REFERENCE = json.loads(PRETRAINED.with_suffix(".json").read_text())


@pytest.mark.parametrize("name", REFERENCE["ids"])
def test_files_of_pretrained_encoders_give_the_references_ids(name, tmp_path):
    """WordPiece, byte-level BPE, CLIP's BPE and SentencePiece's unigrams, as transformers reads them; and as they are stored with a run."""
    tokenizer = from_file(PRETRAINED / name)
    assert [tokenizer.encode(text) for text in REFERENCE["texts"]] == REFERENCE["ids"][name]
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert [again.encode(text) for text in REFERENCE["texts"]] == REFERENCE["ids"][name]
    assert (again.pad, again.begin, again.end) == (tokenizer.pad, tokenizer.begin, tokenizer.end)
    if name != "t5":  # whose pieces have it among them
        end = "[SEP]" if name == "bert" else "<|endoftext|>"
        assert tokenizer.end not in tokenizer.encode(f"a {end} b")  # somebody's text does not end itself
    value, valid = tokens(6, tokenizer=tokenizer)("dogs")
    assert (value[valid][-1], set(value[~valid]) | {tokenizer.pad}) == (tokenizer.end, {tokenizer.pad})
    assert tokenizer.begin is None or value[0] == tokenizer.begin
    assert tokens(6, see_padding=True, tokenizer=tokenizer)("dogs").valid.all()
    assert tokenizer.decode(value).strip() == "dogs"


PIECES = json.loads((PRETRAINED.parent / "sentencepiece.json").read_text())


@pytest.mark.parametrize("name", PIECES["ids"])
def test_model_files_give_the_ids_of_sentencepiece(name, tmp_path):
    """Unigrams and BPE; bytes for what has no piece; symbols of the model's own; a space before each text, or none."""
    tokenizer = from_file(PRETRAINED / name)
    (file,) = (PRETRAINED / name).iterdir()
    assert from_file(file).fingerprint == tokenizer.fingerprint
    tokenizer.save(tmp_path / "tokenizer.json")
    for known in (tokenizer, Tokenizer.load(tmp_path / "tokenizer.json")):
        assert [known.encode(text) for text in PIECES["texts"]] == PIECES["ids"][name]
        assert (known.pad, known.begin, known.end) == {"spiece": (0, None, 1), "spiece_bytes": (3, 1, 2), "llama": (2, 1, 2)}.get(
            name, (0, None, 1)
        )
    assert not {tokenizer.begin, tokenizer.end} & set(tokenizer.encode("<s> a </s> <eos>"))  # somebody's text does not end itself
    value, _ = tokens(32, tokenizer=tokenizer)("a photo of a dog, and two photos of cats.")
    assert tokenizer.decode(value) == "a photo of a dog, and two photos of cats."
    if name != "spiece":
        assert tokenizer.decode(tokenizer.encode("ⱦ 𐎠")) == "ⱦ 𐎠"
        assert tokenizer.pieces(tokenizer.encode("ⱦ"))[-3:] == ["<e2>", "<b1>", "<a6>"]


def test_model_files_that_cannot_be_read(tmp_path):
    """Cut anywhere, something else, or models of another kind."""
    good = (PRETRAINED / "spiece" / "spiece.model").read_bytes()
    path = tmp_path / "spiece.model"
    for content in [good[:n] for n in range(0, len(good), 97)] + [b"x" * 50, good[5:], bytes(20)]:
        path.write_bytes(content)
        with pytest.raises(
            DataError, match=r"spiece\.model is no tokenizer that can be read \(it is no SentencePiece model, or not all of one\)"
        ):
            from_file(path)
    path.write_bytes(good.replace(b"\x18\x01", b"\x18\x04"))  # the kind of model, 1 being unigrams
    with pytest.raises(DataError, match="of words or characters"):
        from_file(path)
    path.rename(tmp_path / "sentencepiece.bpe.model")
    with pytest.raises(DataError, match="another order. Take the tokenizer.json"):
        from_file(tmp_path)


def test_clips_own_file_is_its_merges_alone(tmp_path):
    """The vocabulary of OpenAI's file: bytes, bytes that end words, merges in their order, begin and end."""
    merges = (PRETRAINED / "clip" / "merges.txt").read_text()
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(merges.encode()))
    tokenizer = from_file(tmp_path / "bpe_simple_vocab_16e6.txt.gz")
    folder = from_file(PRETRAINED / "clip")
    last = 512 + len(merges.splitlines()) - 1
    assert (tokenizer.begin, tokenizer.end, tokenizer.vocab) == (last, last + 1, last + 2)
    for text in REFERENCE["texts"]:
        assert tokenizer.pieces(tokenizer.encode(text)) == folder.pieces(folder.encode(text))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no tokenizer.json, vocab.txt"),
        ({"spiece.model": b"x"}, "no SentencePiece model, or not all"),
        ({"tokenizer.json": b"{"}, "no tokenizer that can be read"),
        ({"vocab.txt": b"a\nb\n"}, "none of the known tokens"),
        ({"vocab.json": b"{}"}, "there is no .*merges.txt"),
    ],
)
def test_folders_that_hold_no_tokenizer(tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        from_file(tmp_path)
    with pytest.raises(DataError, match="there is no"):
        from_file(tmp_path / "gone.json")
    with pytest.raises(ConfigError, match="go together"):
        make_tokenizer([], "file")
