"""Which split an example belongs to: by a stable hash, by a column, or by the file it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmjax.config import ConfigError

SHARES = {"validation": 0.1, "test": 0.1}


def share_of(name: str) -> float:
    """A number from 0 to 1 that a hash of `name` gives: the same on every machine, whatever else the data hold."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "big") / 2**64


class ByHash(NamedTuple):
    """Shares of the items, or of the groups that the column `group` makes; `train` is the rest."""

    group: str | None
    shares: dict[str, float]

    @property
    def names(self) -> list[str]:
        """The splits there are."""
        return ["train", *self.shares]

    def of(self, name: str) -> int:
        """The index in `names` of the split of a group. Train has the lower end: what a smaller share sets free goes there."""
        at, top = share_of(name), 1.0
        for i, share in enumerate(self.shares.values(), start=1):
            top -= share
            if at >= top:
                return i
        return 0

    def __str__(self) -> str:
        shares = [1 - sum(self.shares.values()), *self.shares.values()]
        return f"by a hash of {self.group or 'each item'}, {' / '.join(f'{100 * s:.3g}' for s in shares)} %"


class ByColumn(NamedTuple):
    """The values of a column, of which `values` renames some: {"validation": ["val"]}."""

    column: str
    values: dict[str, list[str]]

    def __str__(self) -> str:
        renamed = [f"{split} is {' or '.join(values)}" for split, values in self.values.items()]
        return f"by the column {self.column}" + (f" ({', '.join(renamed)})" if renamed else "")


class ByFile(NamedTuple):
    """The files, or patterns of them, of every split."""

    files: dict[str, list[str]]

    def __str__(self) -> str:
        return "by file"


def listed(value: Any, path: str) -> list[str]:
    """A string or a list of them as a list."""
    found = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
    if not found or not all(isinstance(v, str) and v for v in found):
        raise ConfigError(f"{path}={value!r} should be a name, or a list of names.")
    return found


def parse_splits(splits: Mapping[str, Any] | None) -> ByHash | ByColumn | ByFile:
    """What `data.source.splits` says.

    Raises:
        ConfigError: it says nothing that fits together.
    """
    path, splits = "data.source.splits", dict(SHARES if splits is None else splits)
    if "column" in splits:
        column = splits.pop("column")
        return ByColumn(listed(column, f"{path}.column")[0], {name: listed(v, f"{path}.{name}") for name, v in splits.items()})
    numbers = [name for name, v in splits.items() if isinstance(v, int | float)]
    if "hash" not in splits and not numbers:
        if not splits:
            raise ConfigError(f"{path} is empty: leave it out for 80 / 10 / 10 by a hash.")
        return ByFile({name: listed(v, f"{path}.{name}") for name, v in splits.items()})
    group = splits.pop("hash", None)
    shares = splits or SHARES
    if "train" in shares or any(name not in numbers for name in splits) or min(shares.values()) < 0 or sum(shares.values()) >= 1:
        raise ConfigError(
            f"{path}={dict(splits)} should be shares that leave something for train, as dict(hash='photo_id', validation=0.1, test=0.1)."
        )
    return ByHash(group if group is None else listed(group, f"{path}.hash")[0], {name: float(v) for name, v in shares.items()})
