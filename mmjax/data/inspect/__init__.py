"""What a run would read, before it is trained: examples as the model gets them, counts, and what is twice or unreadable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmjax import config as configs
from mmjax.config import ConfigError
from mmjax.contract import Artifact, Table
from mmjax.data.inspect.counts import Counts
from mmjax.data.inspect.duplicates import across, between, negatives, twice, within
from mmjax.data.inspect.items import Progress, Verdict, scan
from mmjax.data.inspect.sheets import example_sheets, group_sheets
from mmjax.data.loader import Data


class Inspection(NamedTuple):
    """All that was found, in words and as artifacts by section and name."""

    facts: dict[str, str]
    verdicts: list[Verdict]
    sections: dict[str, dict[str, Artifact]]

    def text(self) -> str:
        """Facts, verdicts and counts for a terminal."""
        width = max(len(v.check) for v in self.verdicts)
        lines = [f"{name}: {value}" for name, value in self.facts.items()]
        lines += ["", *(f"{'ok  ' if v.fine else 'LOOK'}  {v.check:{width}}  {v.said}" for v in self.verdicts)]
        for name, artifact in self.sections["counts"].items():
            if isinstance(artifact, Table) and len(artifact.rows) <= 12:
                lines += ["", f"{name}:", *_columns(artifact)]
        return "\n".join(lines)


def _columns(table: Table) -> Iterator[str]:
    """The table in aligned columns."""
    rows = [table.columns, *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ("  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def data_of(config: Any) -> Data:
    """The data of a run's config, without its other parts.

    Raises:
        ConfigError: `data` is missing, or anything in it is unknown or does not fit.
    """
    config = configs.plain(config)
    node = config.get("data")
    if not isinstance(node, Mapping):
        raise ConfigError("config.data is missing: a mapping with source, pp and batch_size.")
    configs.check_call(Data, node, "data", provided=("seed", "workdir", "path"))
    return Data(**node, seed=config.get("seed", 0))


def splits_of(config: Any) -> list[str]:
    """The splits that a run with this config reads: train, and those of its evaluators."""
    evals = configs.plain(config).get("evals") or {}
    nodes = [node for node in evals.values() if isinstance(node, Mapping) and not node.get("data")]  # or it has data of its own
    named = [node.get(which, default) for which, default in (("split", "validation"), ("final", "test")) for node in nodes]
    return list(dict.fromkeys(["train", *filter(None, named)]))


def inspect(
    data: Data,
    splits: Sequence[str],
    *,
    limit: int = 10_000,
    count: int = 12,
    draws: int = 4,
    progress: Progress = lambda items, total, what: items,
) -> Inspection:
    """Reads up to `limit` items of every split and looks at them; of `count` it shows `draws` training views each.

    Raises:
        UserError: what training would refuse too: a split that is not there, or is empty, or of which nothing can be read.
    """
    stops, data.max_unreadable = data.max_unreadable, 1.0  # here all that is unreadable is listed
    opened = {split: data.examples(split) for split in splits}
    seen = [item for split in splits for item in scan(data, split, limit, progress)]
    read = [item for item in seen if not item.problem]
    counts, found = Counts(data, opened, seen, stops), twice(read, data.pp)
    described = data.source(splits[0]).describe().items()
    sections: dict[str, dict[str, Artifact]] = {
        "what the model sees": dict(example_sheets(data, opened, read, count, draws)),
        "counts": dict(counts.artifacts()),
        "between splits": dict(group_sheets(opened, read, found, across)),
        "within a split": dict(group_sheets(opened, read, found, negatives)),
        "source": {name: value if isinstance(value, Artifact) else Table([name], [[value]]) for name, value in described},
    }
    return Inspection(counts.facts(), [*counts.verdicts(), *between(read, found, splits, counts.sampled), *within(read, found)], sections)
