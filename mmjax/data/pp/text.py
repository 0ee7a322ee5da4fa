"""Operations on text: strings, or lists of them by language, down to token ids. See `pp/builder.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from mmjax.data.pp._choose import choose as choose
from mmjax.data.pp.builder import Padded
from mmjax.data.pp.corruptions import lose_words as lose_words
from mmjax.data.pp.corruptions import typos as typos
from mmjax.data.tokenizers import Tokenizer

Op: TypeAlias = Callable[..., Any]


def lower() -> Op:
    """Lower case."""
    return str.lower


def prompt(template: str, *more: str) -> Op:
    """Puts the text in the place of `{}` of one of the templates, `"a drawing of {}"`; the first in evaluation."""
    templates = (template, *more)
    if lacking := [t for t in templates if "{}" not in t]:
        raise ValueError(f"{lacking[0]!r} has no {{}} for the text")
    return lambda x, rng: templates[0 if rng is None else rng.integers(len(templates))].replace("{}", x)


def words_dropped(probability: float = 0.1) -> Op:
    """Leaves out each word with the given probability, but never all of them."""

    def op(x: str, rng: np.random.Generator | None) -> str:
        if rng is None:
            return x
        words = x.split()
        kept = [word for word in words if rng.random() >= probability]
        return " ".join(kept or words)

    return op


def tokens(length: int, see_padding: bool = False, *, tokenizer: Tokenizer | None) -> Op:
    """Ids between a begin and an end token, cut or padded to `length`; a text that is cut keeps its end token.

    With `see_padding` the padding counts as text, as SigLIP was trained. White space and control characters are one space.

    Raises:
        ValueError: the text has nothing else, or is no string; `length` leaves no room for it.
    """
    if length < 3:
        raise ValueError(f"length={length} leaves no room between the begin and the end token")

    def op(x: str) -> Padded:
        if tokenizer is None:
            raise ValueError("tokens() was given no tokenizer")
        if not isinstance(x, str):
            raise ValueError(f"the text is {type(x).__name__}, not a string: choose one of several by choose()")
        x = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", x).strip()
        if not x:
            raise ValueError("the text is empty")
        begin = [] if tokenizer.begin is None else [tokenizer.begin]
        ids = [*begin, *tokenizer.encode(x[: 64 * length])[: length - 1 - len(begin)], tokenizer.end]
        value = np.full(length, tokenizer.pad, np.int32)
        value[: len(ids)] = ids
        return Padded(value, np.arange(length) < (length if see_padding else len(ids)))

    return op
