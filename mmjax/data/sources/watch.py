"""A smartwatch during shoulder exercises: accelerometer and gyroscope at 50 Hz, 10 subjects, 7 exercises, 81 minutes.

Burns et al., 2018, 'Shoulder physiotherapy exercise recognition: machine learning the inertial signals from a smartwatch'
(arXiv:1802.01489), of whose 20 subjects the package `seglearn` carries these. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax.config import ConfigError, DataError
from mmjax.contract import Table

PACKAGE = "seglearn==1.2.5"
RATE = 50  # samples a second
SPLITS = ("train", "validation", "test")
EXERCISES = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "trapezius extension",
    "ROW": "upright row",
}
SIDES = ("left", "right")
FOLDS = 5


class Recording(NamedTuple):
    """Some 20 repetitions of an exercise by one arm of a subject."""

    values: np.ndarray  # float32 [T, 6]: three axes of the accelerometer, three of the gyroscope
    subject: int  # 1 to 10
    side: str
    exercise: str


class Watch:
    """One split ("train", "validation" or "test") of the recordings, cut into windows of a few seconds.

    `source[i]` is `{"id": "subject 3, left, abduction, 12 s", "series_accelerometer": [T, 3], "series_gyroscope": [T, 3],
    "time": [T], "label": "abduction", "label_side": "left", "subject": 3, "key": 170600}`. The accelerometer's unit is g,
    gravity included, as the typical length of 1 says; the gyroscope's is rad/s, by its size: the package names neither.
    `time` is in seconds since the recording began. Both series are of the same moments: an operation that cuts them draws
    for each on its own, so that windows of different moments would be called the same; let `seconds` say how long they are.

    A key is a window: windows of one recording are different items, though an exercise repeats itself every one or two
    seconds and a window can look much like another one. Training windows overlap where `stride` is below `seconds`, those
    of validation and test never do, so that no moment is in two of their items.

    Args:
        split: "train", "validation" or "test". Fold f tests on the subjects 2f + 1 and 2f + 2, validates on the next two
            (1 and 2 come after 10) and trains on the other six: all of a subject is in one split.
        seconds: the length of a window.
        stride: seconds from the start of a training window to that of the next.
        fold: 0 to 4.

    Raises:
        ConfigError: there is no such split, fold or window.
        DataError: the package is missing, or its data are not what they should be.
    """

    classes = {"label": tuple(EXERCISES.values()), "label_side": SIDES}

    def __init__(self, split: str, *, seconds: float = 4.0, stride: float = 1.0, fold: int = 0):
        if split not in SPLITS:
            raise ConfigError(f"Watch has no split {split!r}: take one of {', '.join(SPLITS)}.")
        if fold not in range(FOLDS):
            raise ConfigError(f"watch: fold={fold!r} should be a whole number from 0 to {FOLDS - 1}.")
        self._length, step = round(seconds * RATE), round((stride if split == "train" else seconds) * RATE)
        shortest = min(len(r.values) for r in recordings())
        if not 1 <= self._length <= shortest or step < 1:
            raise ConfigError(
                f"watch: seconds={seconds:g} should be from {1 / RATE:g} to {shortest / RATE:g}, the shortest recording, "
                f"and stride={stride:g} at least {1 / RATE:g}."
            )
        self.split, self._fold, self._seconds, self._stride = split, fold, seconds, stride
        mine = subjects(fold)[split]
        self._windows = [
            (place, start)
            for place, recording in enumerate(recordings())
            if recording.subject in mine
            for start in range(0, len(recording.values) - self._length + 1, step)
        ]
        content = hashlib.sha256(str((self._length, self._windows)).encode())
        for place in sorted({place for place, _ in self._windows}):
            content.update(recordings()[place].values.tobytes())
        self.fingerprint = f"watch/{split}/{content.hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place, start = self._windows[index]
        recording = recordings()[place]
        values = recording.values[start : start + self._length]
        return {
            "id": f"subject {recording.subject}, {recording.side}, {recording.exercise}, {start / RATE:g} s",
            "series_accelerometer": values[:, :3],
            "series_gyroscope": values[:, 3:],
            "time": np.arange(start, start + self._length, dtype=np.float32) / RATE,
            "label": recording.exercise,
            "label_side": recording.side,
            "subject": recording.subject,
            "key": 10_000 * place + start,
        }

    def describe(self) -> dict[str, str | Table]:
        """Whose data this is, who is in which split, and how many windows of each exercise the split has."""
        members = subjects(self._fold)
        rows = []
        for split in SPLITS:
            found = [len(r.values) for r in recordings() if r.subject in members[split]]
            rows.append([split, ", ".join(map(str, members[split])), len(found), round(sum(found) / RATE / 60, 1)])
        counts = dict.fromkeys(EXERCISES.values(), 0)
        for place, _ in self._windows:
            counts[recordings()[place].exercise] += 1
        overlap = f"a training window begins every {self._stride:g} s, those of validation and test do not overlap"
        return {
            "attribution": "D. Burns, N. Leung, M. Hardisty, C. Whyne, P. Henry, S. McLachlin: Shoulder physiotherapy exercise "
            "recognition: machine learning the inertial signals from a smartwatch, 2018 (https://arxiv.org/abs/1802.01489). "
            f"The data are part of {PACKAGE}, BSD 3-Clause (https://github.com/dmbee/seglearn).",
            "splits": Table(
                ["split", "subjects", "recordings", "minutes"],
                rows,
                f"Fold {self._fold} of {FOLDS}: no subject is in two splits. Windows of {self._seconds:g} s; {overlap}.",
            ),
            "classes": Table(["exercise", "windows"], [list(x) for x in counts.items()], f"The {self.split} split, {len(self):,} windows."),
        }


def subjects(fold: int) -> dict[str, tuple[int, ...]]:
    """Who is in which split of a fold."""
    order = [(2 * fold + i) % 10 + 1 for i in range(10)]
    return {"train": tuple(sorted(order[4:])), "validation": tuple(order[2:4]), "test": tuple(order[:2])}


@lru_cache(maxsize=1)
def recordings() -> tuple[Recording, ...]:
    """All 140, in the order of the file.

    Raises:
        DataError: the package is missing, or its file cannot be read or holds something else.
    """
    package = importlib.util.find_spec("seglearn")  # only its file is read: importing it loads all of scikit-learn
    if package is None or not package.origin:
        raise DataError(f"The watch's recordings are part of a package: pip install {PACKAGE}")
    path = Path(package.origin).parent / "data" / "watch_dataset.npy"
    try:
        data = np.load(path, allow_pickle=True).item()
        exercises = [EXERCISES[data["y_labels"][int(y)]] for y in data["y"]]
        sides = [SIDES[int(side)] for side in data["side"]]
        found = tuple(
            Recording(np.array(x, np.float32), int(subject), side, exercise)
            for x, subject, side, exercise in zip(data["X"], data["subject"], sides, exercises, strict=True)
        )
    except Exception as error:  # of files that are not there, not pickles, or of another version
        raise DataError(f"{path} cannot be read ({error or type(error).__name__}): pip install --force-reinstall {PACKAGE}") from error
    for recording in found:
        recording.values.flags.writeable = False  # every window is a view of it
    return found
