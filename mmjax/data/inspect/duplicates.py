"""What is twice: leaks between splits, and items of one split that would wrongly be negatives of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from mmjax.data.inspect.alike import alike
from mmjax.data.inspect.items import Seen, Verdict


class Found(NamedTuple):
    """Groups of items, by position among those read, that share something."""

    what: str  # as in '3 test items have ... of'
    stream: str | None
    groups: list[list[int]]


def shared(values: Iterable[tuple[Hashable, int]]) -> list[list[int]]:
    """Of (value, item) the items of every value that several have, in order, as the values first appear."""
    groups: dict[Hashable, dict[int, None]] = {}
    for value, item in values:
        groups.setdefault(value, {})[item] = None
    return [list(items) for items in groups.values() if len(items) > 1]


def twice(read: list[Seen], pp: Mapping[str, str]) -> dict[str, Found]:
    """What is twice, by check. Keys that only number the items of a split say nothing about other splits."""
    found = {}
    for stream in pp:
        digests = {i: item.digests[stream] for i, item in enumerate(read) if stream in item.digests}
        if digests:
            equal = shared((digest, i) for i, several in digests.items() for digest in several)
            found[f"equal {stream}"] = Found(f"exactly the {stream}", stream, equal)
        rows = [i for i, item in enumerate(read) if stream in item.looks]
        if rows:
            looks = [read[i].looks[stream] for i in rows]
            labels = alike(np.array([x.hash for x in looks]), np.stack([x.thumbnail for x in looks])).tolist()
            groups = shared(zip(labels, rows, strict=True))
            several = [group for group in groups if len({tuple(digests.get(i, [i])) for i in group}) > 1]
            found[f"alike {stream}"] = Found(f"an {stream} that looks like that", stream, several)
        if any(stream in item.texts for item in read):
            texts = ((text, i) for i, item in enumerate(read) for text in item.texts.get(stream, []))
            found[f"equal {stream}"] = Found(f"a {stream}", stream, shared(texts))
    numbered = {item.split for item in read} - {item.split for item in read if item.fields.get("key") != item.index}
    keyed = [i for i, item in enumerate(read) if "key" in item.fields and item.split not in numbered]
    if keyed:
        found["equal key"] = Found("the key", None, shared((read[i].key, i) for i in keyed))
    return found


def across(read: list[Seen], found: Found) -> list[list[int]]:
    """The groups that have members in several splits."""
    return [group for group in found.groups if len({read[i].split for i in group}) > 1]


def between(read: list[Seen], found: Mapping[str, Found], splits: Sequence[str], sampled: Sequence[str]) -> Iterator[Verdict]:
    """Leaks: what stands in several splits. Of the `sampled` ones not every item was read."""
    unsure = f" (of {' and '.join(sampled)} only samples were read, so there may be more)" if sampled else ""
    totals = Counter(item.split for item in read)
    for check, one in found.items() if len(splits) > 1 else ():
        counts: Counter[tuple[str, str]] = Counter()
        for group in across(read, one):
            members = Counter(read[i].split for i in group)
            for earlier, later in combinations(splits, 2):
                counts[later, earlier] += members[later] if members[earlier] else 0
        said = "; ".join(f"{n:,} of {totals[b]:,} {b} items have {one.what} of one in {a}" for (b, a), n in counts.items() if n)
        if said and one.stream is None:
            said += ": the same item, or does the source number them anew in each split?"
        yield Verdict(f"between splits: {check}", not said, (said or "none") + unsure)


def negatives(read: list[Seen], found: Found) -> list[list[int]]:
    """The parts of groups that lie in one split and, under different keys, would be negatives of each other."""
    if found.stream is None:
        return []
    parts = []
    for group in found.groups:
        by_split: dict[str, list[int]] = {}
        for i in group:
            by_split.setdefault(read[i].split, []).append(i)
        parts += [part for part in by_split.values() if len({read[i].key for i in part}) > 1]
    return parts


def within(read: list[Seen], found: Mapping[str, Found]) -> Iterator[Verdict]:
    """Items of one split that share something under different keys."""
    for check, one in found.items():
        if one.stream is None:
            continue
        counts = Counter(read[i].split for i in {i for part in negatives(read, one) for i in part})
        said = ", ".join(f"{n:,} {split} items" for split, n in sorted(counts.items()))
        said = f"{said} have {one.what} of another under another key: negatives of each other" if said else "none under different keys"
        yield Verdict(f"within a split: {check}", not counts, said)
