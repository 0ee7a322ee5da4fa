"""SentencePiece's model files (Kudo & Richardson, 2018), as the `tokenizers` library holds them; the package itself is not needed.

Unigrams (Kudo, 2018) and BPE, with what the file says of bytes, spaces and normalisation. The ids are SentencePiece's own but for
a compatibility letter with a mark beside it (half-width kana, a full-width A and an acute), which it writes as one character, and
where two ways to cut a text score the same.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

SPACE = "▁"  # how pieces write it
UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, USER_DEFINED = 1, 2, 4  # the others: control, unused, byte


class Piece(NamedTuple):
    """A row of the vocabulary."""

    text: str
    score: float
    kind: int


def sentencepiece(data: bytes) -> Any:
    """The library's tokenizer of a model file's content.

    Raises:
        ValueError: it is cut, is something else, or is a model that the library cannot hold.
    """
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Library

    try:
        model = list(_fields(data))
        pieces = [_piece(value) for number, value in model if number == 1]
        trainer, normalizer = (dict(_fields(dict(model)[number])) for number in (2, 3))
        unknown = [piece.kind for piece in pieces].index(UNKNOWN)
    except (IndexError, KeyError, TypeError, ValueError, struct.error):
        raise ValueError("it is no SentencePiece model, or not all of one") from None
    kind, dummy, one_space = trainer.get(3, UNIGRAM), normalizer.get(3, 1), normalizer.get(4, 1)
    if kind not in (UNIGRAM, BPE) or trainer.get(24) or not normalizer.get(5, 1):
        raise ValueError("it is a SentencePiece model of words or characters, or one that writes spaces in another way")
    own = [piece.text for piece in pieces if piece.kind == USER_DEFINED]
    if kind == BPE and own and dummy:
        raise ValueError("it is a BPE model with symbols of its own and a space before each text. Take the tokenizer.json of the same")

    if kind == UNIGRAM:
        scores = [(piece.text, score) for piece, score in zip(pieces, _scores(pieces), strict=True)]
        tokenizer = Library(models.Unigram(scores, unknown, bool(trainer.get(35))))
        # A cut after the first character: "</s>" in somebody's text is four characters, not the end.
        names = (p.text for p in pieces if p.kind not in (NORMAL, USER_DEFINED) and len(p.text) > 1)
        if cuts := "|".join(f"{re.escape(n[0])}(?={re.escape(n[1:])})" for n in names):
            tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(cuts), "isolated")
    else:
        ids = {piece.text: i for i, piece in enumerate(pieces)}
        bpe = models.BPE(ids, _merges(pieces), unk_token=pieces[unknown].text, fuse_unk=True, byte_fallback=bool(trainer.get(35)))
        tokenizer = Library(bpe)

    steps: list[Any] = []
    if charsmap := normalizer.get(2):
        steps += _mapped(normalizers.Precompiled(charsmap))
    if one_space:
        steps += [normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if dummy else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if dummy else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    if kind == BPE:
        tokenizer.add_tokens([AddedToken(text, normalized=True) for text in own])
    return tokenizer


def _mapped(charsmap: Any) -> list[Any]:
    """The library applies the map to a letter together with its marks, and drops what it does not find: so marks are set apart.

    Where the map composes, the letter's first mark and all of Latin's are composed before. Other marks keep their order, which NFC
    would change and SentencePiece does not.
    """
    from tokenizers import Regex, normalizers

    apart = "\x01"  # which no text needs
    composed = [
        normalizers.Replace(Regex(r"(?<=\p{M})(?=[\p{M}&&[^\u0300-\u036f]])"), apart),
        normalizers.NFC(),
    ]
    composes = charsmap.normalize_str("e\u0301") == "é"
    marks = normalizers.Replace(Regex(r"(?=[\p{M}\u200c\u200d])"), apart)
    return [*(composed if composes else []), marks, charsmap, normalizers.Replace(apart, "")]


def _scores(pieces: list[Piece]) -> list[float]:
    """Of unigrams; symbols of the user's own win against any other pieces, as SentencePiece does it."""
    best = max((p.score for p in pieces if p.kind == NORMAL), default=0.0)
    return [len(p.text.encode()) * best - 0.1 if p.kind == USER_DEFINED else p.score for p in pieces]


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """All pairs that make a piece, the best piece first."""
    known = {p.text for p in pieces if p.kind == NORMAL}
    best = sorted((p for p in pieces if p.kind == NORMAL), key=lambda p: -p.score)
    pairs = ((p.text[:i], p.text[i:]) for p in best for i in range(1, len(p.text)))
    return [pair for pair in pairs if known.issuperset(pair)]


def _piece(message: bytes) -> Piece:
    fields = dict(_fields(message))
    return Piece(fields[1].decode(), struct.unpack("<f", fields.get(2, bytes(4)))[0], fields.get(3, NORMAL))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protocol buffer's fields: whole numbers, or bytes."""
    at = 0

    def whole() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        number, wire = divmod(whole(), 8)
        if wire == 0:
            yield number, whole()
            continue
        size = whole() if wire == 2 else {1: 8, 5: 4}[wire]
        if at + size > len(message):
            raise IndexError
        yield number, message[at : at + size]
        at += size
