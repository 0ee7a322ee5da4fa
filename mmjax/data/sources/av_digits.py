"""Pictures of digits with the digits spoken, in the manner of AV-MNIST (Vielzeuf et al., 2018, 'CentralNet: a Multilayer Approach
for Multimodal Fusion', sec. 4.1), without its faults: nothing of one split is heard or seen in another.

Pictures are scikit-learn's, of real handwriting, or MNIST's. Speech is made by espeak-ng, and then called synthetic wherever
the data are described, or is the Free Spoken Digit Dataset, or a folder of recordings named as its own. What makes the
task hard is done by the config's operations: `batch_pp`'s `keep_energy` (PCA) and `pp`'s `white_noise`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax.config import ConfigError, DataError
from mmjax.contract import Table
from mmjax.data.sources import digits
from mmjax.data.sources._prepared import prepare_once
from mmjax.data.sources._splits import share_of
from mmjax.data.sources.digits import NAMES

SPLITS = ("train", "validation", "test")
FOLDS = 5
IMAGES = ("digits", "mnist")
WHOSE = {"digits": "Alpaydin and Kaynak, 1998, UCI, CC BY 4.0, as scikit-learn carries them", "mnist": "MNIST, LeCun et al., 1998"}
ESPEAK, SPOKEN_DIGIT = "espeak", "spoken_digit"
FSDD_RATE = 8_000
# Fifteen speakers, each a variant of the voice that no other has, with an accent and a pitch; each says every digit at five speeds.
VARIANTS = ("m1", "f1", "m2", "f2", "m3", "f3", "m4", "f4", "m5", "f5", "m6", "m7", "m8", "klatt", "klatt4")
ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan")
SPEEDS = (130, 150, 170, 190, 210)  # words a minute


class Clip(NamedTuple):
    """A recording of a digit."""

    digit: int
    voice: str
    path: Path


class AvDigits:
    """One split ("train", "validation" or "test") of pictures, each with a clip of the same digit.

    `source[i]` is `{"id": "7, picture 31, f2", "image": PNG bytes, "audio_speech": encoded bytes, "label": 7, "voice": "f2",
    "key": 31}`.

    Fold f tests on a fifth of the pictures and of the voices, validates on the next fifth and trains on the rest: all of a
    voice, and all pictures of equal pixels, are in one split. Which clip a picture comes with is a function of the
    picture and the fold alone, whatever reads it and in which order; clips repeat where there are fewer than pictures.
    `fold=None` has MNIST's pictures as AV-MNIST has them, 55,000, 5,000 (the last of MNIST's training set) and 10,000 (its test
    set), with the voices of fold 0.

    Args:
        split: "train", "validation" or "test".
        images: "digits" (scikit-learn's 1,797) or "mnist" (tfds', 70,000, which has to be prepared: `prepare=True` downloads it).
        speech: "espeak"; "spoken_digit" (tfds', 2,500 recordings of five people, to be prepared in the same way, which takes
            TensorFlow); or a folder of recordings called `<digit>_<voice>_<n>.wav` (flac, ogg, mp3).
        fold: 0 to 4, or None.
        data_dir: where clips that are made, and tfds' data, are kept; by default tfds' own place.
        prepare: whether MNIST and spoken_digit are downloaded where they are not there.

    Raises:
        ConfigError: there is no such split, fold, kind of images or folder.
        DataError: espeak-ng is not installed or failed, or a folder has too few voices or lacks a digit.
    """

    classes = {"label": NAMES}

    def __init__(
        self,
        split: str,
        *,
        images: str = "digits",
        speech: str = ESPEAK,
        fold: int | None = 0,
        data_dir: str | None = None,
        prepare: bool = False,
    ):
        if split not in SPLITS:
            raise ConfigError(f"AvDigits has no split {split!r}: take one of {', '.join(SPLITS)}.")
        if images not in IMAGES:
            raise ConfigError(f"av_digits: images={images!r} is unknown ({', '.join(IMAGES)}).")
        if fold is not None and fold not in range(FOLDS):
            raise ConfigError(f"av_digits: fold={fold!r} should be a whole number from 0 to {FOLDS - 1}.")
        if fold is None and images != "mnist":
            raise ConfigError(f"av_digits: fold=None is MNIST's own split, and images={images!r}: take fold=0 to {FOLDS - 1}.")
        self.split, self._fold, self._speech, self._whose = split, fold, speech, WHOSE[images]
        clips = _clips(_folder(speech, data_dir, prepare))  # before MNIST is read: what is missing shows at once
        self._pixels, labels = digits.pixels() if images == "digits" else _mnist(data_dir, prepare)
        voices = sorted({clip.voice for clip in clips}, key=lambda voice: share_of(f"voice {voice}"))
        if len(voices) < FOLDS:
            raise DataError(f"av_digits: {speech} has {len(voices)} voices; at least {FOLDS} are needed, so that each split has its own.")
        self._voices = {voice for i, voice in enumerate(voices) if _part(i * FOLDS // len(voices), fold or 0) == split}
        mine: dict[int, list[Clip]] = defaultdict(list)
        for clip in clips:
            if clip.voice in self._voices:
                mine[clip.digit].append(clip)
        if lacking := [NAMES[d] for d in range(10) if not mine[d]]:
            raise DataError(f"av_digits: no voice of the {split} split says {', '.join(lacking)}.")
        self._rows: list[tuple[int, Clip]] = []
        for i, (pixels, digit) in enumerate(zip(self._pixels, labels, strict=True)):
            name = hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest()
            own = _published(i) if fold is None else _part(int(share_of(f"picture {name}") * FOLDS), fold)
            if own == split:
                choice = mine[int(digit)]
                self._rows.append((i, choice[int(share_of(f"pair {fold} {i} {name}") * len(choice))]))
        content = hashlib.sha256(str([(i, clip.path.name) for i, clip in self._rows]).encode())
        for path in sorted({clip.path for _, clip in self._rows}):
            content.update(path.read_bytes())
        self.fingerprint = f"av_digits/{images}/{split}/{content.hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import cv2

        i, clip = self._rows[index]
        return {
            "id": f"{clip.digit}, picture {i}, {clip.voice}",
            "image": cv2.imencode(".png", self._pixels[i])[1].tobytes(),
            "audio_speech": clip.path.read_bytes(),
            "label": clip.digit,
            "voice": clip.voice,
            "key": i,
        }

    def describe(self) -> dict[str, str | Table]:
        """Where pictures and speech come from, that speech is synthetic where it is, and who is heard in the split."""
        counts: dict[str, int] = defaultdict(int)
        for _, clip in self._rows:
            counts[clip.voice] += 1
        said = made = "SYNTHETIC speech, made by espeak-ng: no human being is heard, and figures say little of human voices."
        if self._speech == SPOKEN_DIGIT:
            said = "Free Spoken Digit Dataset, Z. Jackson and others, CC BY-SA 4.0, as tfds has it."
        elif self._speech != ESPEAK:
            said = f"recordings in {Path(self._speech).name}."
        which = "AV-MNIST's split of the pictures" if self._fold is None else f"fold {self._fold}"
        return {
            "attribution": f"Pictures: {self._whose}. Speech: {said}",
            "voices": Table(
                ["voice", "pictures"],
                sorted(map(list, counts.items())),
                f"The {self.split} split of {which}, {len(self):,} pairs. No voice and no picture is in two splits."
                + (f" {made}" if self._speech == ESPEAK else ""),
            ),
        }


def _part(fifth: int, fold: int) -> str:
    """The split of one of the five parts in a fold."""
    return {0: "test", 1: "validation"}.get((fifth - fold) % FOLDS, "train")


def _published(row: int) -> str:
    """The split of a picture in AV-MNIST: 55,000, 5,000 and 10,000 of `_mnist`'s rows."""
    return SPLITS[(row >= 55_000) + (row >= 60_000)]


@lru_cache(maxsize=1)  # three splits read the same
def _mnist(data_dir: str | None, prepare: bool) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's 60,000 training pictures, and then its 10,000 test pictures."""
    import cv2

    from mmjax.data.sources.tfds import Tfds

    streams = {"image": "image", "label": "label"}
    rows = []
    for split in ("train", "test"):
        source = Tfds(split, dataset="mnist", streams=streams, data_dir=data_dir, prepare=prepare)
        rows += [source[i] for i in range(len(source))]
    images = [np.asarray(cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_GRAYSCALE)) for row in rows]
    return np.stack(images), np.array([int(row["label"]) for row in rows])


def _folder(speech: str, data_dir: str | None, prepare: bool) -> Path:
    """Where the recordings are, which are made or copied there now if they are not."""
    if speech == ESPEAK:
        return _espoken(_kept(data_dir))
    if speech == SPOKEN_DIGIT:
        return _spoken_digit(_kept(data_dir), data_dir, prepare)
    return Path(speech).expanduser()


def _kept(data_dir: str | None) -> Path:
    """Where clips are kept."""
    if data_dir is None:
        from tensorflow_datasets.core.constants import DATA_DIR

        data_dir = str(DATA_DIR)
    return Path(data_dir).expanduser() / "av_digits"


def _clips(folder: Path) -> list[Clip]:
    """The recordings in a folder, in the order of their names."""
    if not folder.is_dir():
        raise ConfigError(f"av_digits: speech={str(folder)!r} is neither {ESPEAK!r}, {SPOKEN_DIGIT!r} nor a folder.")
    found = []
    for path in sorted(folder.iterdir()):
        if named := re.fullmatch(r"([0-9])_(.+)_([0-9]+)\.(wav|flac|ogg|mp3)", path.name):
            found.append(Clip(int(named[1]), named[2], path))
    if not found:
        raise DataError(f"av_digits: {folder} has no recordings called <digit>_<voice>_<n>.wav, as '7_jackson_32.wav'.")
    return found


def _spoken_digit(place: Path, data_dir: str | None, prepare: bool) -> Path:
    """The folder of tfds' recordings as files under the names that they had, written now if they are not there."""
    import soundfile

    from mmjax.data.sources.tfds import Tfds

    streams = {"audio": "audio", "text_name": "audio/filename"}
    source = Tfds("train", dataset=SPOKEN_DIGIT, streams=streams, data_dir=data_dir, prepare=prepare)
    folder = place / source.fingerprint.replace("/", "-")

    def write(scratch: Path) -> None:
        for i in range(len(source)):
            row = source[i]
            soundfile.write(scratch / row["text_name"], row["audio"], FSDD_RATE, subtype="PCM_16")

    prepare_once(folder, lambda: _complete(folder, write))
    return folder


def _complete(folder: Path, write: Callable[[Path], None]) -> None:
    """Has `write` fill a folder beside the folder's place, and moves it there when all is written."""
    scratch = Path(tempfile.mkdtemp(prefix=f"incomplete-{folder.name}-", dir=folder.parent))
    try:
        write(scratch)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _espoken(place: Path) -> Path:
    """The folder of the clips that espeak-ng says, made now if they are not there; another version of it has another folder."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise DataError(
            "av_digits: speech is made by espeak-ng, which is not installed: sudo apt install espeak-ng (or brew install espeak-ng). "
            "Or say speech='spoken_digit', or a folder of recordings such as https://github.com/Jakobovski/free-spoken-digit-dataset."
        )
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    number = (re.findall(r"[0-9]+(?:\.[0-9]+)+", version) or ["unknown"])[0]
    folder = place / f"espeak-ng-{number}-{len(VARIANTS)}x{len(SPEEDS)}"
    prepare_once(folder, lambda: _complete(folder, partial(_speak, program)))
    return folder


def _speak(program: str, scratch: Path) -> None:
    """Has every speaker say every digit at every speed, into a folder."""

    def say(speaker: int, digit: int, take: int) -> None:
        accent, variant = ACCENTS[speaker % len(ACCENTS)], VARIANTS[speaker]
        path = scratch / f"{digit}_{variant}_{take}.wav"
        pitch = 35 + (17 * speaker) % 31
        line = [program, "-v", f"{accent}+{variant}", "-s", str(SPEEDS[take]), "-p", str(pitch), "-w", str(path), NAMES[digit]]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode or not path.exists() or path.stat().st_size < 1_000:
            raise DataError(f"av_digits: espeak-ng failed: {' '.join(line)}: {done.stderr.strip() or 'it wrote nothing'}.")

    with ThreadPoolExecutor() as pool:
        every = [(s, d, t) for s in range(len(VARIANTS)) for d in range(10) for t in range(len(SPEEDS))]
        list(pool.map(lambda what: say(*what), every))
