"""Several sources as one: training draws from each in proportion to its weight, evaluation reads them one after the other."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax import config
from mmjax.config import ConfigError
from mmjax.contract import Table
from mmjax.data.examples import has

PATH = "data.source.parts"
COMMON = ("weight", "evaluate")


class Mixture:
    """One split of several sources, `parts=dict(coco=dict(name="tfds", ..., weight=0.7), own=dict(name="files", ..., weight=0.3))`.

    The weights are shares of what training reads, whatever the sizes; without any, each part has the share of its size.
    Every part is shuffled and repeated on its own, so an epoch of one may be several of another. A part with
    `evaluate=False` is only trained on. What an example has is what its part gives it: a stream that a part has not is
    absent there. Keys of different parts are different. Class indices are those of `classes`, the parts' names united.

    Raises:
        ConfigError: a part that does not exist or does not take what it is given, or weights that are no shares.
    """

    def __init__(self, split: str, *, parts: Mapping[str, Mapping[str, Any]]):
        if not isinstance(parts, Mapping) or not parts:
            raise ConfigError(f"{PATH}={parts!r} should be {{part: source}}, as in {{'own': {{'name': 'files', ..., 'weight': 0.3}}}}.")
        for name, node in parts.items():  # all of them, before any is opened
            config.check_part("data.sources", node, f"{PATH}.{name}", provided=("split",), common=COMMON)
        weights = _weights(parts)
        self._names = [name for name, node in parts.items() if split == "train" or node.get("evaluate", True)]
        if not self._names:
            raise ConfigError(f"{PATH}: every part has evaluate=False, so there is nothing in the {split} split.")
        self._parts = [config.build("data.sources", parts[n], f"{PATH}.{n}", common=COMMON, split=split) for n in self._names]
        self._stops = list(itertools.accumulate(map(len, self._parts)))
        starts = [0, *self._stops[:-1]]
        sizes = [len(part) for part in self._parts]
        shares = sizes if weights is None else [weights[name] for name in self._names]
        self.strata = list(zip(starts, self._stops, map(float, shares), strict=True))
        self.classes, self._indices = self._united()
        prints = [f"{name} {share} {part.fingerprint}" for name, share, part in zip(self._names, shares, self._parts, strict=True)]
        self.fingerprint = hashlib.sha256("\n".join(prints).encode()).hexdigest()[:16]

    def _united(self) -> tuple[dict[str, list[str]], list[dict[str, np.ndarray]]]:
        """The names of the classes of all parts, and for each part where its own are among them."""
        named = [getattr(part, "classes", None) or {} for part in self._parts]
        united: dict[str, dict[str, int]] = {}
        for stream in sorted({stream for classes in named for stream in classes}):
            for name, part, classes in zip(self._names, self._parts, named, strict=True):
                if stream not in classes and not isinstance(part[0].get(stream), str | None):
                    raise ConfigError(
                        f"{PATH}.{name}: its {stream!r} has no names of classes, as other parts' have: they cannot be united."
                    )
            ids = united.setdefault(stream, {})
            for label in itertools.chain.from_iterable(classes.get(stream, ()) for classes in named):
                ids.setdefault(label, len(ids))
        indices = [{stream: np.array([united[stream][n] for n in names]) for stream, names in classes.items()} for classes in named]
        return {stream: list(ids) for stream, ids in united.items()}, indices

    def __len__(self) -> int:
        return self._stops[-1]

    def has(self, index: int, stream: str) -> bool:
        """Whether an example has a field for a stream."""
        which = bisect.bisect_right(self._stops, index)
        return has(self._parts[which], index - int(self.strata[which][0]), stream)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} is outside a mixture of {len(self)} examples")
        index %= len(self)
        which = bisect.bisect_right(self._stops, index)
        local = index - self.strata[which][0]
        out = dict(self._parts[which][local])
        for stream, indices in self._indices[which].items():
            label = out.get(stream)
            if label is not None and not isinstance(label, str):  # a name is the same in all parts; -1 is no class
                found = np.where(np.asarray(label) < 0, -1, indices[label])
                out[stream] = found if found.ndim else int(found)
        out["id"] = f"{self._names[which]} {out.get('id', local)}"
        # Keys that are small stay apart for certain; those that are hashes are hashes again.
        out["key"] = (int(out.get("key", local)) * len(self._parts) + which) % (2**31 - 1)
        return out

    def describe(self) -> dict[str, Any]:
        """The parts with their shares, and what each says of itself under its name."""
        total = math.fsum(weight for *_, weight in self.strata)
        rows = [
            [n, stop - start, round(100 * weight / total, 2)] for n, (start, stop, weight) in zip(self._names, self.strata, strict=True)
        ]
        about: dict[str, Any] = {"parts": Table(["part", "examples", "% of training"], rows)}
        for name, part in zip(self._names, self._parts, strict=True):
            about |= {f"{name}/{key}": value for key, value in part.describe().items()}
        return about


def _weights(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, float] | None:
    """The parts' weights, None where no part has one."""
    weights = {name: node["weight"] for name, node in parts.items() if node.get("weight") is not None}
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ConfigError(f"{PATH}.{name}.weight={weight!r} should be a number above 0. To leave a part out, take it from the parts.")
    if lacking := [name for name in parts if name not in weights]:
        if weights:
            raise ConfigError(f"{PATH}.{lacking[0]}.weight is missing: give every part a weight, or none (shares by size).")
        return None
    return weights
