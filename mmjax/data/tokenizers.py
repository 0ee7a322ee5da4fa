"""Text to ids, through the `tokenizers` library: bytes, which need no vocabulary, BPE trained on the training split, or a file's."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsInt

from mmjax.config import ConfigError, DataError, nearest
from mmjax.contract import write_atomic
from mmjax.data._sentencepiece import sentencepiece

PAD, BEGIN, END = 0, 1, 2
_SPECIAL = ["<pad>", "<begin>", "<end>"]
KINDS = ("byte", "bpe", "file")
# In a folder, the first of these that there is.
FILES = ("tokenizer.json", "vocab.txt", "bpe_simple_vocab_16e6.txt.gz", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")

# How padding, begin and end are called, where a text has them: ours, BERT's, RoBERTa's, CLIP's, GPT-2's, T5's and SigLIP's, Gemma's,
# and Llama's, which has no padding.
NAMES = (
    ("<pad>", "<begin>", "<end>"),
    ("[PAD]", "[CLS]", "[SEP]"),
    ("<pad>", "<s>", "</s>"),
    ("<|endoftext|>", "<|startoftext|>", "<|endoftext|>"),
    ("<|endoftext|>", None, "<|endoftext|>"),
    ("<pad>", None, "</s>"),
    ("<pad>", None, "<eos>"),
    ("</s>", "<s>", "</s>"),
)

# How byte-level vocabularies write bytes (Radford et al., 2019): those that print as they are, the others from U+0100 on.
_PRINT = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(b): b for b in _PRINT} | {chr(0x100 + i): b for i, b in enumerate(b for b in range(256) if b not in _PRINT)}


class Tokenizer:
    """What the run's texts become. Ours are byte-level: every string of every script has ids and comes back from them unchanged.

    `pad`, `begin` and `end` are ids; `begin` is None where texts of a vocabulary have none.

    Raises:
        ValueError: the vocabulary has no tokens for padding and the end.
    """

    def __init__(self, tokenizer):
        tokenizer.encode_special_tokens = True  # "<end>" in somebody's text is five characters, not the end
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.vocab: int = tokenizer.get_vocab_size()
        found = [[name and tokenizer.token_to_id(name) for name in names] for names in NAMES]
        known = (ids for names, ids in zip(NAMES, found, strict=True) if [i is None for i in ids] == [n is None for n in names])
        if (ids := next(known, None)) is None:
            raise ValueError("it has none of the known tokens for padding and the end")
        self.pad, self.begin, self.end = ids
        self._special = {i for i in ids if i is not None}

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without begin and end."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of `ids`, special tokens left out."""
        return self._tokenizer.decode([i for i in map(int, ids) if i not in self._special])

    def pieces(self, ids: Iterable[SupportsInt]) -> list[str]:
        """What each id stands for: its text or, where it is a part of a character, its bytes as `<e2 98>`."""
        return [self._piece(i) for i in map(int, ids)]

    def _piece(self, i: int) -> str:
        token = self._tokenizer.id_to_token(i)
        if i in self._special or token is None:
            return token or f"<{i}>"
        if re.fullmatch("<0x[0-9A-F]{2}>", token):  # SentencePiece's bytes
            return f"<{token[3:5].lower()}>"
        text = self._tokenizer.decode([i])
        return text if "\ufffd" not in text else f"<{' '.join(f'{_BYTES[c]:02x}' if c in _BYTES else c for c in token)}>"

    @property
    def fingerprint(self) -> str:
        """Another one means other ids."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes the library's own JSON format."""
        write_atomic(path, self._tokenizer.to_str(pretty=True))

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads what `save` wrote."""
        from tokenizers import Tokenizer as Library

        try:
            return cls(Library.from_file(str(path)))
        except Exception as error:
            raise DataError(f"{path} is no tokenizer file that can be read ({error}). Use a new workdir, or put the file back.") from None


def make_tokenizer(texts: Iterable[str], name: str = "byte", vocab: int = 1_024, path: str | None = None, lower: bool = True) -> Tokenizer:
    """A tokenizer of the given kind; `texts` train the BPE merges (Sennrich et al., 2016) of a vocabulary up to `vocab`.

    With name="file" that of a pretrained encoder, from `path`: see `from_file`; `lower` is for its WordPiece.
    """
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if name not in KINDS:
        raise ConfigError(f"data.tokenizer.name: {name!r} is unknown.{nearest(name, KINDS)}")
    if (name == "file") != (path is not None):
        raise ConfigError("data.tokenizer: name='file' and path=... go together.")
    if path is not None:
        return from_file(path, lower)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: i for i, token in enumerate([*_SPECIAL, *alphabet])}
    tokenizer = Library(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL)
    if name == "bpe":
        if vocab <= len(ids):
            raise ConfigError(f"data.tokenizer.vocab={vocab} leaves no room for merges: the bytes alone take {len(ids)}.")
        trainer = trainers.BpeTrainer(
            vocab_size=vocab, min_frequency=2, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
    return Tokenizer(tokenizer)


def from_file(path: str | Path, lower: bool = True) -> Tokenizer:
    """The tokenizer of a pretrained text encoder, from the files that lie beside its weights.

    `path` is a `tokenizer.json` of the library (which holds any kind); BERT's `vocab.txt` (WordPiece; `lower` for the uncased);
    SentencePiece's `.model` (SigLIP's and T5's `spiece.model`, Gemma's and Llama's `tokenizer.model`); CLIP's
    `bpe_simple_vocab_16e6.txt.gz`; or a folder with one of these, or with `vocab.json` and `merges.txt` (byte-level BPE as GPT-2
    and RoBERTa have it or, where its words end in "</w>", CLIP's).

    Raises:
        DataError: there is no such file, or it is none of these.
    """
    from tokenizers import Tokenizer as Library

    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(f"data.tokenizer.path: there is no {place}.")
    if place.is_dir() and (found := [place / name for name in FILES if (place / name).exists()]):
        return from_file(found[0], lower)
    try:
        if place.is_dir():
            if (place / "vocab.json").exists():
                return _byte_bpe(json.loads((place / "vocab.json").read_text()), _merges((place / "merges.txt").read_text()))
            raise ValueError(f"the folder has no {', '.join(FILES)}, or vocab.json and merges.txt")
        if place.suffix == ".json":
            return Tokenizer(Library.from_file(str(place)))
        if place.name.endswith(".txt.gz"):
            return _openai(gzip.decompress(place.read_bytes()).decode())
        if place.suffix == ".txt":
            return _wordpiece(place.read_text(encoding="utf-8").splitlines(), lower)
        if place.name == "sentencepiece.bpe.model":
            raise ValueError("XLM-R and its like number its pieces in another order. Take the tokenizer.json of the same vocabulary")
        if place.suffix == ".model":
            return Tokenizer(sentencepiece(place.read_bytes()))
        raise ValueError(f"its name is none of {', '.join(FILES)}, or another .json, .txt or .model")
    except FileNotFoundError as error:
        raise DataError(f"data.tokenizer.path: there is no {error.filename}.") from None
    except Exception as error:  # the library raises its own, of files that are something else
        raise DataError(f"data.tokenizer.path: {path} is no tokenizer that can be read ({error}).") from None


def _merges(text: str) -> list[tuple[str, str]]:
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#version")]
    return [(left, right) for left, right in lines]


def _wordpiece(vocab: list[str], lower: bool) -> Tokenizer:
    """BERT's (Devlin et al., 2019): words cut into pieces, the longest first."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    tokenizer = Library(models.WordPiece({token: i for i, token in enumerate(vocab)}, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([token for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]") if token in set(vocab)])
    return Tokenizer(tokenizer)


def _byte_bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """GPT-2's (Radford et al., 2019) or, by its words' ends, CLIP's."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Library

    if clip := any(token.endswith("</w>") for token in vocab):
        tokenizer = Library(models.BPE(vocab, merges, unk_token="<|endoftext|>", continuing_subword_prefix="", end_of_word_suffix="</w>"))
        one_space = normalizers.Replace(Regex(r"\s+"), " ")
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), one_space, normalizers.Lowercase()])
        words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
        split = pre_tokenizers.Split(words, behavior="removed", invert=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        tokenizer = Library(models.BPE(vocab, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")]) if clip else decoders.ByteLevel()
    names = ("<|startoftext|>", "<|endoftext|>") if clip else ("<|endoftext|>", "<s>", "</s>", "<pad>", "<unk>", "<mask>")
    tokenizer.add_special_tokens([token for token in names if token in vocab])
    return Tokenizer(tokenizer)


def _openai(text: str) -> Tokenizer:
    """CLIP's vocabulary as OpenAI and open_clip carry it: merges alone, of which 48,894 are used."""
    merges = _merges("\n".join(text.splitlines()[1:48_895]))
    alphabet = list(_BYTES)
    tokens = [*alphabet, *(f"{c}</w>" for c in alphabet), *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    return _byte_bpe({token: i for i, token in enumerate(tokens)}, merges)
