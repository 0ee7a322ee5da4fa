"""Examples and groups of duplicates side by side, for a person to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mmjax.contract import Item, Sheet
from mmjax.data.examples import Examples, Unreadable
from mmjax.data.inspect.duplicates import Found
from mmjax.data.inspect.items import Seen
from mmjax.data.loader import Data
from mmjax.data.pp.builder import Padded
from mmjax.data.show import as_item
from mmjax.data.tokenizers import Tokenizer

GROUPS, MEMBERS = 24, 8  # groups of duplicates, and members of each, that are shown
PICTURE = 160  # pixels of a picture's longer side in the page


def example_sheets(data: Data, opened: Mapping[str, Examples], read: list[Seen], count: int, draws: int) -> Iterator[tuple[str, Sheet]]:
    """Examples spread over each split: the evaluation view and, of training examples, some draws."""
    for split, evaluated in opened.items():
        rows = [item for item in read if item.split == split]
        drawn = data.examples(split, train=True) if split == "train" else None
        picked = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]
        titles = [_title(item) for item in picked]
        views = [_views(data.tokenizer, evaluated, drawn, item.index, draws) for item in picked]
        note = "The evaluation view, and what the first epochs of training draw." if drawn else "As evaluation reads them."
        yield f"{split} examples", Sheet(titles, views, f"{note} Texts stand with their tokens: piece and id.")


def _title(item: Seen) -> str:
    return ", ".join([f"{item.split} {item.index}", *(f"{name} {value}" for name, value in list(item.fields.items())[:4])])


def _views(tokenizer: Tokenizer, evaluated: Examples, drawn: Examples | None, row: int, draws: int) -> list[Item]:
    """Every view of a stream, draws that give the same text as one."""
    views = [("evaluation", evaluated, 0), *((f"draw {epoch + 1}", drawn, epoch) for epoch in range(draws if drawn else 0))]
    items: list[Item] = []
    for stream, pipeline in evaluated.pipelines.items():
        seen: dict[Any, int] = {}
        for name, source, epoch in views if True in pipeline.draws else [("every time", evaluated, 0)]:
            item = _view(tokenizer, source, stream, row, epoch, f"{stream}, {name}")
            first = seen.setdefault(item.content, len(items))
            if item.kind == "text" and first < len(items):
                items[first] = items[first]._replace(caption=f"{items[first].caption}, {name}")
            else:
                items.append(item)
    return items


def _view(tokenizer: Tokenizer, source: Examples, stream: str, row: int, epoch: int, caption: str) -> Item:
    try:
        shown, given = (source.read(row, epoch, shown=shown)[stream] for shown in (True, False))
    except Unreadable as error:  # a draw can be, of an item that otherwise is not
        return Item("text", f"unreadable: {error}", caption)
    pieces = None
    if isinstance(given, Padded) and "tokens" in source.pipelines[stream].names:
        ids = given.value[given.valid].tolist()
        pieces = list(zip(ids, tokenizer.pieces(ids), strict=True))
    return as_item("absent" if shown is None else shown, caption, side=PICTURE, pieces=pieces)


def _group_sheet(opened: Mapping[str, Examples], read: list[Seen], stream: str | None, groups: list[list[int]]) -> Sheet:
    """Members of each group side by side, as pictures where they have any."""
    titles, rows = [], []
    for group in groups[:GROUPS]:
        texts = set.intersection(*(set(read[i].texts.get(stream or "", [])) for i in group))
        more = f", {MEMBERS} of them here" if len(group) > MEMBERS else ""
        titles.append(" ".join(f"“{text}”" for text in sorted(texts)[:1]) + f" {len(group)} items{more}")
        one_of_each_split = {read[i].split: i for i in reversed(group)}.values()
        picked = dict.fromkeys([*one_of_each_split, *group])
        rows.append([_member(opened, read[i], stream) for i in sorted(list(picked)[:MEMBERS])])
    said = f"{len(groups):,} group{'s' * (len(groups) > 1)}"
    return Sheet(titles, rows, f"The first {GROUPS} of {said}." if len(groups) > GROUPS else f"{said}.")


def _member(opened: Mapping[str, Examples], item: Seen, stream: str | None) -> Item:
    shown = {stream: value for stream, value in opened[item.split].shown(item.index).items() if stream in item.streams}
    words = next((value for value in shown.values() if isinstance(value, str)), "")
    where = f"{item.split} {item.index}" + (f", key {item.key}" if "key" in item.fields else "")
    picture = shown.get(stream or "") if stream in item.lengths else next((shown[s] for s in item.looks), None)
    if picture is None:
        return as_item(words or next(iter(shown.values()), "nothing"), where)
    return as_item(picture, f"{where}: {words}" if words else where, side=PICTURE)


def group_sheets(
    opened: Mapping[str, Examples], read: list[Seen], found: Mapping[str, Found], which: Callable[[list[Seen], Found], list[list[int]]]
) -> Iterator[tuple[str, Sheet]]:
    """A sheet for every check that found something; `which` picks the groups, or parts of them."""
    for check, one in found.items():
        if groups := which(read, one):
            yield check, _group_sheet(opened, read, one.stream, groups)
