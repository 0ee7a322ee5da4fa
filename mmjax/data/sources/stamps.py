"""Tux Paint's stamps: pictures with descriptions in up to 78 languages, spoken descriptions, and the sounds that things make.

They come from the Debian package `tuxpaint-stamps-default`, of which a folder is enough; nothing is downloaded. They are
prepared once, in a minute or two, by the tfds builder in `_stamps_builder.py`, which also says which stamps belong together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.config import ConfigError, DataError
from mmjax.contract import Table
from mmjax.data.sources._prepared import prepare_once, reading, write_array_record
from mmjax.data.sources._splits import share_of

USUAL = "/usr/share/tuxpaint/stamps"
PACKAGE = "tuxpaint-stamps-default"
SPLITS = ("train", "validation", "test", "test_recordings")
UNHEARD = ("be", "el")
FOLDS = 5
ATTRIBUTION = (
    "Stamps: Tux Paint (https://tuxpaint.org), the Tux Paint Development Team and contributors, GPL-2; the Debian package "
    f"{PACKAGE}. Here pictures as PNG of at most 144 × 144 pixels on white, recordings as FLAC, mono, 16 kHz, at -23 dBFS "
    "root mean square over the clip (less where a peak would clip)."
)


class Stamps:
    """One split of the stamps.

    `source[i]` is `{"id": "animals/birds/duck", "image": PNG bytes, "text": {"en": ["A duck."], ...}, "audio_speech": {"fr":
    [FLAC bytes], ...}, "audio_sound": FLAC bytes, "label": "animals", "group": "animals/birds/duck", "key": 17}`; what a stamp
    has not is left out. The labels are the 16 folders. Equal keys have the same English text, or a recording in common; a
    group is called by one of its stamps.

    "train", "validation" and "test" are 80/10/10 by a hash of the group: stamps that share a text, look alike or share a
    recording are in one group, so what "test" asks for is new. "test_recordings" asks for new recordings of what training
    knows: stamps of "train" with the spoken descriptions that "train" leaves out. These are all in the languages `unheard`,
    whose voices are new too, and of every group with several other languages all recordings in one of them, chosen by a hash.

    Args:
        split: one of SPLITS.
        root: the folder of the stamps, or the one that the package was unpacked into.
        unheard: languages that training does not hear; texts in them stay.
        fold: 0 to 4 for cross-validation: 70/10/20 by the same hash, and in the five folds every group is in "test" once.
        data_dir: where tfds keeps its data sets, by default its own default or `TFDS_DATA_DIR`.

    Raises:
        ConfigError: there is no such split, or no such language.
        DataError: the folder is not there or holds no stamps, or what was prepared earlier cannot be read.
    """

    def __init__(
        self, split: str, *, root: str = USUAL, unheard: Sequence[str] = UNHEARD, fold: int | None = None, data_dir: str | None = None
    ):
        if split not in SPLITS:
            raise ConfigError(f"Stamps has no split {split!r}: take one of {', '.join(SPLITS)}.")
        if fold is not None and fold not in range(FOLDS):
            raise ConfigError(f"stamps: fold={fold!r} should be a whole number from 0 to {FOLDS - 1}, or None.")
        builder = _prepared(_stamps_folder(root), data_dir)
        self._folder = Path(builder.data_path)
        with self._reading():
            from tensorflow_datasets import decode

            self._about: list[dict[str, Any]] = list(builder.info.metadata["stamps"])
            self._left_out: list[str] = list(builder.info.metadata["left_out"])
            self._source = builder.as_data_source(split="stamps", decoders={"image": decode.SkipDecoding()})
            self._source.__getitems__([0, len(self._source) - 1])  # a missing or truncated file shows here, not in mid-training
        spoken = {language for one in self._about for language in one["speech"]}
        if unknown := sorted(set(unheard) - spoken - set(UNHEARD)):
            raise ConfigError(f"Stamps has no recordings in {unknown[0]!r}: unheard may name {', '.join(sorted(spoken))}.")
        self.split, self._unheard, self._fold = split, frozenset(unheard), fold
        self._held_out = _held_out(self._about, self._unheard)
        self._rows = self._rows_of(split)
        self.classes = {"label": sorted({_label(one["id"]) for one in self._about})}
        self.fingerprint = f"{self._folder.parents[1].name}/{builder.info.full_name}/{split}/{','.join(sorted(unheard))}"
        self.fingerprint += "" if fold is None else f"/fold {fold}"

    def _reading(self) -> Any:
        return reading(self._folder, "stamps", "start again")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} is outside a split of {len(self)} stamps")
        number = self._rows[index]
        with self._reading():
            row = self._source[number]
        id = row["id"].decode()
        out = {"id": id, "image": row["image"], "label": _label(id), "group": self._about[number]["group"], "key": int(row["key"])}
        if len(row["texts"]):
            out["text"] = {la.decode(): [text.decode()] for la, text in zip(row["text_languages"], row["texts"], strict=True)}
        speech = defaultdict(list)
        for language, clip in zip(row["speech_languages"], row["speech"], strict=True):
            if self._heard(self.split, number, language.decode()):
                speech[language.decode()].append(clip)
        if speech:
            out["audio_speech"] = dict(speech)
        if len(row["sound"]):
            out["audio_sound"] = row["sound"][0]
        return out

    def _heard(self, split: str, number: int, language: str) -> bool:
        """Whether a split has a stamp's recordings in a language."""
        out = language in self._held_out[number]
        return {"train": not out, "test_recordings": out}.get(split, True)

    def _rows_of(self, split: str) -> list[int]:
        """The stamps of a split."""
        part = "train" if split == "test_recordings" else split
        rows = [i for i, one in enumerate(self._about) if split_of(one["group"], self._fold) == part]
        return [i for i in rows if split != "test_recordings" or self._held_out[i] & set(self._about[i]["speech"])]

    def describe(self) -> dict[str, str | Table]:
        """Whose data this is, what the splits hold, the languages that are spoken, and which stamps are one group."""
        counts, spoken = [], {}
        for split in SPLITS:
            rows = self._rows_of(split)
            spoken[split] = Counter(la for i in rows for la in self._about[i]["speech"] if self._heard(split, i, la))
            sounds = sum(self._about[i]["sound"] for i in rows)
            groups = len({self._about[i]["group"] for i in rows})
            counts.append([split, len(rows), groups, sum(spoken[split].values()), sounds])
        languages = sorted({la for c in spoken.values() for la in c}, key=lambda la: (-sum(c[la] for c in spoken.values()), la))
        groups = defaultdict(list)
        for one in self._about:
            groups[one["group"]].append(one["id"])
        several = [[", ".join(ids), len(ids), split_of(name, self._fold)] for name, ids in groups.items() if len(ids) > 1]
        shares = "80/10/10" if self._fold is None else f"Fold {self._fold} of {FOLDS}, 70/10/20"
        unheard = ", ".join(sorted(self._unheard))
        note = f"{shares} by a hash of the group; test_recordings has stamps of train. Training hears no {unheard}."
        return {
            "attribution": ATTRIBUTION,
            "splits": Table(["split", "stamps", "groups", "spoken descriptions", "sounds"], counts, note),
            "speech": Table(["language", *SPLITS], [[la, *(spoken[split][la] for split in SPLITS)] for la in languages]),
            "groups": Table(["stamps", "members", "split"], sorted(several, key=lambda g: -g[1]), "Groups of one are not listed."),
            "left_out": Table(["file"], [[line] for line in self._left_out], f"{len(self._left_out)} files that could not be used."),
        }


def split_of(group: str, fold: int | None = None) -> str:
    """The split of a group, by a hash: the same on every machine, and untouched by groups added later."""
    share = share_of(f"stamps {group}")
    if fold is not None:
        share, validation, test = (share + fold / FOLDS) % 1, 1 - 1 / FOLDS - 0.1, 1 - 1 / FOLDS
    else:
        validation, test = 0.8, 0.9
    return "train" if share < validation else "validation" if share < test else "test"


def _held_out(about: Sequence[Mapping[str, Any]], unheard: frozenset[str]) -> list[frozenset[str]]:
    """For each stamp the languages in which training does not hear its group."""
    spoken: dict[str, set[str]] = defaultdict(set)
    for one in about:
        spoken[one["group"]].update(set(one["speech"]) - unheard)
    out = {}
    for name, languages in spoken.items():
        one = {sorted(languages)[int(share_of(f"language {name}") * len(languages))]} if len(languages) > 1 else set()
        out[name] = unheard | one
    return [out[one["group"]] for one in about]


def _label(id: str) -> str:
    """The folder that a stamp is in, in words: "natural forces"."""
    return id.partition("/")[0].replace("naturalforces", "natural forces")


def _stamps_folder(root: str) -> Path:
    """Where the stamps lie, in a folder that is theirs or that the package was unpacked into."""
    given = Path(root).expanduser()
    unpacked = given / USUAL.lstrip("/")
    folder = unpacked if unpacked.is_dir() else given
    if not folder.is_dir():
        raise DataError(
            f"Stamps are not in {folder}: sudo apt install {PACKAGE}; or, without root, 'apt-get download {PACKAGE}' and "
            f"'dpkg -x {PACKAGE}_*.deb stamps', and root='stamps' among the source's arguments (data.source.root)."
        )
    return folder.resolve()


def _prepared(root: Path, data_dir: str | None) -> Any:
    """The tfds builder with its data on disk, prepared now if they are not yet."""
    from mmjax.data.sources._stamps_builder import Builder

    folder = Builder.folder(root, data_dir)
    data_dir = str(folder.parents[1])  # said outright, or tfds looks in other places too
    what = f"Stamps: drawing and resampling those in {root} to {folder}"
    try:
        prepare_once(folder, lambda: write_array_record(Builder(root=root, data_dir=data_dir), what))
    except OSError as error:
        raise DataError(f"Stamps could not be prepared in {folder}: {error}. TFDS_DATA_DIR may name another place.") from error
    with reading(folder, "stamps", "start again"):
        return Builder(root=root, data_dir=data_dir)  # reads the description of the data
