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
