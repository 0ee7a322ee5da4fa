"""How much there is of everything, by split."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmjax.contract import Artifact, Bars, Table, kind
from mmjax.data.examples import Examples
from mmjax.data.inspect.items import Seen, Verdict
from mmjax.data.loader import Data

LISTED = 200  # unreadable items that are listed
CUT = 0.01  # the share of texts that may be cut without a word


class Counts:
    """What was seen of each split. `seen` holds the unreadable items too; training stops where their share is above `stops`."""

    def __init__(self, data: Data, opened: Mapping[str, Examples], seen: list[Seen], stops: float):
        self.data, self.opened, self.stops = data, opened, stops
        self.items = {split: [item for item in seen if item.split == split and not item.problem] for split in opened}
        self.unreadable = {split: [item for item in seen if item.split == split and item.problem] for split in opened}
        self.seen = {split: len(items) + len(self.unreadable[split]) for split, items in self.items.items()}
        every = [item for items in self.items.values() for item in items]
        self.texts = sorted({stream for item in every for stream in item.texts})
        self.pictures = sorted({stream for item in every for stream in item.sizes})
        self.long = sorted({stream for item in every for stream in item.lengths})
        self.fields = list(dict.fromkeys(name for item in every for name in item.fields))

    @property
    def sampled(self) -> list[str]:
        """The splits of which not every item was read."""
        return [split for split, found in self.opened.items() if self.seen[split] < len(found.source)]

    def _limit(self, stream: str) -> int:
        """The L of tokens(L), or 0."""
        found = next(iter(self.opened.values()))
        return found.spec[stream].shape[0] if "tokens" in found.pipelines[stream].names else 0

    def _texts(self, split: str, stream: str) -> list[str]:
        return [text for item in self.items[split] for text in item.texts.get(stream, [])]

    def _lengths(self, split: str, stream: str) -> np.ndarray:
        return np.array([n for item in self.items[split] for n in item.tokens.get(stream, [])], int)

    def facts(self) -> dict[str, str]:
        """What was read, and through which operations."""
        source, tokenizer = self.data.source_config, self.data.tokenizer_config
        read = ((split, self.seen[split], len(found.source)) for split, found in self.opened.items())
        facts = {
            "source": " ".join(f"{name}={value}" if name != "name" else str(value) for name, value in source.items()),
            "items read": ", ".join(f"{split} {n:,} of {total:,}" + " (a sample)" * (n < total) for split, n, total in read),
            **{f"data.pp.{stream}": text for stream, text in self.data.pp.items()},
        }
        if self.texts:
            facts["tokenizer"] = f"{tokenizer['name']}, {self.data.tokenizer.vocab:,} ids"
        return facts

    def verdicts(self) -> Iterator[Verdict]:
        """Whether there is enough to train on, and all of it arrives."""
        if "train" in self.opened:
            n, size = len(self.opened["train"].source), self.data.batch_size
            yield Verdict("enough for a batch", n >= size, f"{n:,} training items, data.batch_size={size:,}")
        for split, bad in self.unreadable.items():
            first = f": item {bad[0].index}: {bad[0].problem}" if bad else ""
            too_many = len(bad) > max(1, self.stops * self.seen[split])
            stops = f"; more than data.max_unreadable={self.stops:g}: training would stop" if too_many else ""
            yield Verdict(f"readable: {split}", not bad, f"{len(bad):,} of {self.seen[split]:,} items are unreadable{first}{stops}")
        for stream in self.data.pp:
            lacking = {split: sum(stream not in item.streams for item in items) for split, items in self.items.items()}
            said = ", ".join(f"{n:,} {split} items" for split, n in lacking.items() if n)
            yield Verdict(f"present: {stream}", not said, f"absent in {said}" if said else "every item has it")
        for stream in self.texts:
            if limit := self._limit(stream):
                cut = {split: float(np.mean(lengths > limit)) for split in self.opened if len(lengths := self._lengths(split, stream))}
                said = ", ".join(f"{share:.1%} of {split}" for split, share in cut.items())
                yield Verdict(f"{stream} fits tokens({limit})", max(cut.values(), default=0) <= CUT, f"texts that are cut: {said}")

    def artifacts(self) -> Iterator[tuple[str, Artifact]]:
        """Tables and histograms by name."""
        yield "items", self._items()
        if self.fields:
            yield "fields", self._fields()
        if self.pictures:
            yield "picture sizes", self._sizes()
        if self.long:
            yield "lengths", self._long()
        for stream in self.texts:
            if self._limit(stream):
                yield f"length of {stream}", self._histogram(stream)
            yield f"words of {stream}", self._words(stream)
        if bad := [item for items in self.unreadable.values() for item in items]:
            rows = [[item.split, item.index, item.problem] for item in bad[:LISTED]]
            yield "unreadable", Table(["split", "item", "why"], rows, f"The first {LISTED} of {len(bad):,}." if len(bad) > LISTED else "")

    def _items(self) -> Table:
        columns = ["split", "items", "read", "unreadable", *(f"with {stream}" for stream in self.data.pp)]
        columns += [name for stream in self.texts for name in (f"{stream}: texts", "distinct", "median tokens", "most tokens")]
        rows = []
        for split, items in self.items.items():
            row: list[Any] = [split, len(self.opened[split].source), self.seen[split], len(self.unreadable[split])]
            row += [sum(stream in item.streams for item in items) for stream in self.data.pp]
            for stream in self.texts:
                texts, lengths = self._texts(split, stream), self._lengths(split, stream)
                row += [len(texts), len(set(texts)), *((int(np.median(lengths)), int(lengths.max())) if len(lengths) else ("", ""))]
            rows.append(row)
        return Table(columns, rows)

    def _fields(self) -> Table:
        """Of every field beside the streams how many values there are, and how many of them in several splits."""
        rows = []
        for name in self.fields:
            values = [{item.fields[name] for item in items if name in item.fields} for items in self.items.values()]
            several = sum(n > 1 for n in Counter(value for found in values for value in found).values())
            rows.append([name, *map(len, values), several])
        return Table(["field", *self.opened, "in several splits"], rows, "Distinct values of what stands beside the streams.")

    def _sizes(self) -> Table:
        rows = []
        for stream in self.pictures:
            for split in self.opened:
                items = [item for item in self.items[split] if stream in item.sizes]
                sizes = sorted((item.sizes[stream] for item in items), key=math.prod)
                if sizes:
                    (common, n), enlarged = Counter(sizes).most_common(1)[0], sum(stream in item.enlarged for item in items)
                    shown = [f"{width} × {height}" for width, height in (sizes[0], sizes[len(sizes) // 2], sizes[-1], common)]
                    rows.append([stream, split, *shown, f"{n / len(sizes):.0%}", f"{enlarged / len(sizes):.0%}"])
        columns = ["stream", "split", "smallest", "median", "largest", "most frequent", "of all", "enlarged for the model"]
        return Table(columns, rows, "Width × height in pixels before any operation.")

    def _long(self) -> Table:
        """How long clips and series are, in whatever number an example has them."""
        rows = []
        for stream in self.long:
            for split in self.opened:
                found = [one for item in self.items[split] for one in item.lengths.get(stream, [])]
                if not found:
                    continue
                clips, lengths = kind(stream) == "audio", sorted(length for length, _ in found)
                shown = [lengths[0], lengths[len(lengths) // 2], lengths[-1], sum(lengths)]
                of_each = Counter(n for _, n in found).most_common(4)
                said = ", ".join(f"{n:,} Hz ({many:,})" if clips else f"{n} channels ({many:,})" for n, many in of_each)
                rows.append([stream, split, len(found), *(f"{x:.1f} s" if clips else f"{x:,.0f}" for x in shown), said])
        columns = ["stream", "split", "how many", "shortest", "median", "longest", "all", "rates, channels"]
        return Table(columns, rows, "Every clip or series that the operations choose from, before any other operation; series in samples.")

    def _histogram(self, stream: str) -> Bars:
        limit, bins = self._limit(stream), 16
        lengths = {split: self._lengths(split, stream) for split in self.opened}
        top = max(limit, min(2 * limit, max((int(x.max()) for x in lengths.values() if len(x)), default=0)))
        width = math.ceil((top - 2) / bins) or 1
        starts = list(range(3, top + 1, width))
        labels = [str(a) if width == 1 else f"{a}–{a + width - 1}" for a in starts[:-1]] + [f"{starts[-1]} and more"]
        edges = [*starts, math.inf]
        shares = {split: 1_000 * np.histogram(x, edges)[0] / max(1, len(x)) for split, x in lengths.items()}
        series = {split: np.where(share > 0, share.round(), np.nan).tolist() for split, share in shares.items()}
        note = (
            f"Of 1,000 texts of a split, how many have so many tokens, begin and end among them; tokens({limit}) cuts those above {limit}."
        )
        return Bars(labels, series, note)

    def _words(self, stream: str, most: int = 30) -> Table:
        words = {split: Counter(re.findall(r"\w+", "\n".join(self._texts(split, stream)).lower())) for split in self.opened}
        frequent = sum(words.values(), Counter()).most_common(most)
        rows = [[word, *(found[word] for found in words.values())] for word, _ in frequent]
        different = ", ".join(f"{len(found):,} in {split}" for split, found in words.items())
        return Table(["word", *self.opened], rows, f"The most frequent, and how often each split has them. Different words: {different}.")
