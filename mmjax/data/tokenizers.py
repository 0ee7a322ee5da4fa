"""Text to ids, through the `tokenizers` library: bytes, which need no vocabulary, or BPE trained on the training split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsInt

from mmjax.config import ConfigError, DataError, nearest
from mmjax.contract import write_atomic

PAD, BEGIN, END = 0, 1, 2
_SPECIAL = ["<pad>", "<begin>", "<end>"]
KINDS = ("byte", "bpe")

# How byte-level vocabularies write bytes (Radford et al., 2019): those that print as they are, the others from U+0100 on.
_PRINT = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(b): b for b in _PRINT} | {chr(0x100 + i): b for i, b in enumerate(b for b in range(256) if b not in _PRINT)}


class Tokenizer:
    """Byte-level, so that every string of every script has ids and comes back from them unchanged."""

    def __init__(self, tokenizer):
        tokenizer.encode_special_tokens = True  # "<end>" in somebody's text is five characters, not the end
        self._tokenizer = tokenizer
        self.vocab: int = tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without begin and end."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of `ids`, special tokens left out."""
        return self._tokenizer.decode([i for i in map(int, ids) if i > END])

    def pieces(self, ids: Iterable[SupportsInt]) -> list[str]:
        """What each id stands for: its text or, where it is a part of a character, its bytes as `<e2 98>`."""
        return [self._piece(i) for i in map(int, ids)]

    def _piece(self, i: int) -> str:
        token = self._tokenizer.id_to_token(i)
        if i <= END or token is None:
            return token or f"<{i}>"
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
            tokenizer = Library.from_file(str(path))
            if [tokenizer.token_to_id(token) for token in _SPECIAL] != [PAD, BEGIN, END]:
                raise ValueError(f"its first tokens are not {', '.join(_SPECIAL)}")
            return cls(tokenizer)
        except Exception as error:
            raise DataError(f"{path} is no tokenizer file that can be read ({error}). Use a new workdir, or put the file back.") from None


def make_tokenizer(texts: Iterable[str], name: str = "byte", vocab: int = 1_024) -> Tokenizer:
    """A tokenizer of the given kind; `texts` train the BPE merges (Sennrich et al., 2016) of a vocabulary up to `vocab`."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if name not in KINDS:
        raise ConfigError(f"data.tokenizer.name: {name!r} is unknown.{nearest(name, KINDS)}")
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
