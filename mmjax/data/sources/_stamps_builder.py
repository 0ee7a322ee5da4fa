"""How the stamps data set is made: what a folder of Tux Paint stamps holds, which stamps belong together, and the tfds builder.

A stamp is `<name>.png` or `.svg` with `<name>.txt`: its first line is English, each other is `<language>.utf8=<text>`.
`<name>_desc_<language>.ogg` is the description spoken (without a language, in English), `<name>.ogg` the sound that the thing
makes, `<name>_<language>.ogg` that of another country: of letters and numerals, which are read aloud. `<name>_mirror.png`
is the same stamp. Whoever changes anything here raises `Builder.VERSION`, so that prepared data are made again.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int16, UInt8
from tensorflow_datasets.core import constants

from mmjax.config import DataError
from mmjax.data.sources._alike import distances, thumbnails, united

SIZE = 144  # pixels, the longer side; the rest is white
RATE = 16_000
LOUDNESS, PEAK = -23.0, 0.99  # root mean square in dB of full scale, over the whole clip; less where a peak would be above PEAK

# Two pictures (one of them as it is or mirrored) nearer than this are one thing: the coins of one country with other numbers,
# eyes in other colours, the letters b and d. Further apart, from 0.21 on, are coins of two countries, or kinds of apple.
ALIKE = 0.2
# Two clips are one recording where envelopes and then waveforms, from where they begin, correlate above these: encodings of
# one recording are at 0.97 and above, the same word spoken twice is at 0.85 and below.
ENVELOPE, WAVEFORM = 0.96, 0.95
LONG = 20  # letters of a text that two stamps share by more than chance in one language; of a shorter one it takes two

SPOKEN = {"symbols/math/": "en", "symbols/alphabets/german/": "de"}  # sounds without a language that are letters or numerals
EXTENSIONS = (".ogg", ".wav")


class Stamp(NamedTuple):
    """The files of one stamp, and its texts by language."""

    id: str  # the path below the folder, without an extension
    image: Path
    texts: dict[str, str]
    speech: dict[str, list[Path]]
    sound: Path | None


def all_stamps(root: Path) -> list[Stamp]:
    """Every stamp of the folder with a picture and a text, in order of the ids."""
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    stamps = []
    audio = defaultdict(list)  # by folder and the letters that begin a name, so that each stamp looks at few
    for name in files:
        if name.endswith(EXTENSIONS):
            audio[_bucket(name)].append(name)
    names = {name.removesuffix(".txt") for name in files if name.endswith(".txt")}
    for name in sorted(names):
        image = files.get(f"{name}.png", files.get(f"{name}.svg"))
        if image is None:
            continue
        speech: dict[str, list[Path]] = defaultdict(list)
        sound = None
        for file in audio[_bucket(name)]:
            if not (found := re.fullmatch(rf"{re.escape(name)}(_desc)?(?:_([a-z]{{2,3}}(?:_[A-Za-z]{{2}})?))?(?:\.ogg)?\.\w+", file)):
                continue
            description, language = found.groups()
            language = language or ("en" if description else next((to for of, to in SPOKEN.items() if file.startswith(of)), None))
            if language is None:
                sound = files[file]
            elif f"{name}_{found[2]}" not in names:  # else it is the sound of another stamp
                speech["en" if language == "en_GB" else language].append(files[file])
        stamps.append(Stamp(name, image, texts_of(files[f"{name}.txt"]), dict(speech), sound))
    return stamps


def _bucket(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file[:1]}"


def texts_of(path: Path) -> dict[str, str]:
    """The text of a stamp in each language."""
    first, *others = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    found = {"en": first} | {m[1]: m[2] for line in others if (m := re.match(r"([A-Za-z_@]+)\.utf8=(.*)", line))}
    return {language: text.strip() for language, text in found.items() if text.strip()}


def drawn(path: Path) -> UInt8[np.ndarray, "S S 3"]:
    """A picture on white, the longer side SIZE pixels long."""
    from PIL import Image

    if path.suffix == ".svg":
        try:
            import resvg_py
        except ImportError as error:
            raise DataError("Some stamps are SVG drawings, which take another package: pip install resvg-py") from error
        picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=2 * SIZE, dpi=96))))
    else:
        picture = Image.open(path)
    picture = picture.convert("RGBA")
    scale = SIZE / max(picture.size)
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    picture = picture.resize([max(1, round(scale * side)) for side in picture.size], Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (SIZE, SIZE), "white")
    canvas.paste(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return np.asarray(canvas)


def recorded(path: Path) -> Int16[np.ndarray, " _"]:
    """A clip, mono at RATE and of one loudness; silence, of no sample above half a step, is zeros."""
    import soundfile
    import soxr

    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if not len(wave):
        raise ValueError("it has no samples")
    wave = soxr.resample(wave.mean(axis=1), rate, RATE)
    rms, peak = np.sqrt(np.mean(wave**2)), np.abs(wave).max()
    gain = min(10 ** (LOUDNESS / 20) / rms, PEAK / peak) if rms > 1e-6 else 0.0
    return np.rint(wave * gain * 32_767).astype(np.int16)


def flac(wave: Int16[np.ndarray, " _"]) -> bytes:
    """A clip without loss, in about half the bytes."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def same_recordings(clips: Sequence[Int16[np.ndarray, " _"]]) -> list[tuple[int, int]]:
    """Pairs of clips that are one recording, however encoded and however much silence is around it. Silence is no recording."""
    frame, reach = RATE // 100, RATE  # of at most the first second
    begin, length = np.zeros(len(clips), np.int64), np.zeros(len(clips), np.int64)
    envelopes = np.zeros((len(clips), reach // frame), np.float32)
    for i, clip in enumerate(clips):
        energy = np.sqrt(np.mean(clip[: len(clip) // frame * frame].reshape(-1, frame).astype(np.float32) ** 2, axis=1))
        loud = np.flatnonzero(energy > 0.05 * energy.max(initial=0))
        if len(loud):
            begin[i], length[i] = loud[0] * frame, (loud[-1] + 1 - loud[0]) * frame
            part = np.log1p(energy[loud[0] : loud[-1] + 1][: reach // frame])
            envelopes[i, : len(part)] = part
    envelopes -= envelopes.mean(axis=1, keepdims=True)
    envelopes /= np.maximum(np.linalg.norm(envelopes, axis=1, keepdims=True), 1e-9)
    order = np.argsort(length, kind="stable")
    order = order[length[order] > 0]
    pairs = []
    for step in range(1, len(order)):
        a, b = order[:-step], order[step:]
        close = length[b] - length[a] <= 2 * frame
        if not close.any():
            break
        likely = close & (np.einsum("ij,ij->i", envelopes[a], envelopes[b]) > ENVELOPE)
        for i, j in zip(a[likely].tolist(), b[likely].tolist(), strict=True):
            if _correlation(clips, begin, length, i, j) > WAVEFORM:
                pairs.append((i, j))
    return pairs


def _correlation(clips: Sequence[np.ndarray], begin: np.ndarray, length: np.ndarray, i: int, j: int) -> float:
    """The largest correlation of two waveforms, of half a second, over shifts of at most two hundredths of one."""
    from scipy.fft import next_fast_len

    size, shift = int(min(length[i], length[j], RATE // 2)), RATE // 50
    fast = next_fast_len(size + shift, real=True)
    a, b = (clips[k][begin[k] : begin[k] + size].astype(np.float32) for k in (i, j))
    cross = np.fft.irfft(np.fft.rfft(a, fast) * np.conj(np.fft.rfft(b, fast)), fast)
    near = np.concatenate([cross[:shift], cross[-shift:]]).max()
    return float(near / np.sqrt(max((a @ a) * (b @ b), 1e-9)))


def words(text: str) -> str:
    """A text without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def sharing(contents: Iterable[Iterable[Any]]) -> list[tuple[int, int]]:
    """Pairs of things that share a content, each with the first that has it."""
    first: dict[Any, int] = {}
    return [(first.setdefault(c, i), i) for i, found in enumerate(contents) for c in found]


def shared_texts(stamps: Sequence[Stamp]) -> list[tuple[int, int]]:
    """Pairs of stamps whose texts are the same in two languages other than English, or in one and LONG."""
    languages: dict[tuple[int, int], set[str]] = defaultdict(set)
    found = defaultdict(list)
    for i, stamp in enumerate(stamps):
        for language, text in stamp.texts.items():
            base = re.split("[_@]", language)[0]
            if base != "en" and words(text):
                found[base, words(text)].append(i)
    pairs = []
    for (language, text), members in found.items():
        for a, b in itertools.pairwise(members):
            languages[a, b].add(language)
            if len(text) >= LONG:
                pairs.append((a, b))
    return pairs + [pair for pair, shared in languages.items() if len(shared) > 1]


def group(
    stamps: Sequence[Stamp], images: UInt8[np.ndarray, "N S S 3"], clips: Sequence[Sequence[int]], same: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int]]:
    """The key and the group of every stamp. `clips` are its recordings, of which `same` are pairs that are one.

    Keys are equal where the English texts or a recording are; groups also where texts in other languages are the same
    (`shared_texts`), or the pictures look alike, one of them mirrored or not.
    """
    owner = {clip: i for i, found in enumerate(clips) for clip in found}
    heard = sharing(clips) + [(owner[a], owner[b]) for a, b in same if a in owner and b in owner]
    told = sharing([words(stamp.texts.get("en", ""))] if words(stamp.texts.get("en", "")) else [] for stamp in stamps)
    ink = thumbnails(images)
    distance: Float[np.ndarray, "N N"] = np.minimum(distances(ink, ink), distances(ink, ink[:, :, ::-1]))
    inked = ink.reshape(len(ink), -1).max(axis=1) > 0.05  # a white drawing on white is like any other
    seen = np.argwhere(np.triu((distance < ALIKE) & inked[:, None] & inked[None, :], 1))
    alone = np.zeros((0, 2), np.int64)
    keys = np.array([*heard, *told] or alone)
    return united(keys, len(stamps)), united(np.array([*heard, *told, *shared_texts(stamps), *seen.tolist()] or alone), len(stamps))


def print_of(root: Path) -> str:
    """What tells one folder's content from another's: names and sizes of its files."""
    listed = sorted(f"{path.relative_to(root).as_posix()} {path.stat().st_size}" for path in root.rglob("*") if path.is_file())
    return hashlib.sha256("\n".join(listed).encode(errors="surrogatepass")).hexdigest()[:12]


class Builder(tfds.core.GeneratorBasedBuilder):
    """Draws, resamples, groups and writes; what `stamps.py` needs to know of all stamps at once stands in the metadata."""

    name = "stamps"
    VERSION = tfds.core.Version("1.0.1")

    def __init__(self, *, root: Path, **arguments: Any):
        self._root = root
        super().__init__(**arguments)

    @classmethod
    def folder(cls, root: Path, data_dir: str | None) -> Path:
        """Where the data of a folder are or will be: another content is another data set."""
        return Path(data_dir or constants.DATA_DIR).expanduser() / f"stamps-{print_of(root)}" / cls.name / str(cls.VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        fields = {
            "id": features.Text(),
            "image": features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
            # in pairs: which languages there are differs from stamp to stamp
            "text_languages": features.Sequence(features.Text()),
            "texts": features.Sequence(features.Text()),
            "speech_languages": features.Sequence(features.Text()),
            "speech": features.Sequence(features.Text()),  # FLAC
            "sound": features.Sequence(features.Text()),  # one or none
            "key": np.int32,
        }
        # "stamps": id, group, label and languages of every one, "left_out": what could not be used
        return tfds.core.DatasetInfo(
            builder=self,
            features=features.FeaturesDict(fields),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # the metadata are in the order of the rows
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        stamps = all_stamps(self._root)
        left_out: list[str] = []
        readable, images = [], []
        for stamp in stamps:
            try:
                images.append(drawn(stamp.image))
                readable.append(stamp)
            except (OSError, ValueError) as error:
                left_out.append(f"{stamp.image.name}: {error}")
        if not readable:
            raise DataError(f"Nothing in the folder can be used: {'; '.join(left_out[:3]) or 'it has no stamps'}.")
        clips, numbers = self._clips(readable, left_out)
        found = [[n for path in _paths(stamp) if (n := numbers.get(path)) is not None] for stamp in readable]
        keys, groups = group(readable, np.stack(images), found, same_recordings(clips))

        def members(stamp: Stamp) -> tuple[list[tuple[str, int]], list[int]]:
            """Numbers of the clips by language, the same once, and of the sound."""
            spoken = [(language, numbers[p]) for language, paths in sorted(stamp.speech.items()) for p in paths if p in numbers]
            return list(dict.fromkeys(spoken)), [numbers[stamp.sound]] if stamp.sound in numbers else []

        about = []
        for stamp, number in zip(readable, groups, strict=True):
            spoken, sound = members(stamp)
            about.append(
                {
                    "id": stamp.id,
                    "group": readable[number].id,  # by name: where a stamp is added, the others stay in their split
                    "speech": [language for language, _ in spoken],
                    "sound": bool(sound),
                    "texts": len(stamp.texts),
                }
            )
        self.info.metadata.update(stamps=about, left_out=left_out)  # pyright: ignore[reportOptionalMemberAccess]

        def rows() -> Iterator[tuple[int, dict]]:
            for i, stamp in enumerate(readable):
                spoken, sound = members(stamp)
                yield (
                    i,
                    {
                        "id": stamp.id,
                        "image": io.BytesIO(_png(images[i])),
                        "text_languages": list(stamp.texts),
                        "texts": list(stamp.texts.values()),
                        "speech_languages": [language for language, _ in spoken],
                        "speech": [flac(clips[n]) for _, n in spoken],
                        "sound": [flac(clips[n]) for n in sound],
                        "key": keys[i],
                    },
                )

        return {"stamps": rows()}

    def _clips(self, stamps: Sequence[Stamp], left_out: list[str]) -> tuple[list[np.ndarray], dict[Path, int]]:
        """The recordings, those of equal files once, and the number of each file's; silence and what cannot be read has none."""
        clips: list[np.ndarray] = []
        numbers: dict[Path, int] = {}
        by_content: dict[bytes, int | None] = {}
        for path in dict.fromkeys(path for stamp in stamps for path in _paths(stamp)):
            content = hashlib.sha256(path.read_bytes()).digest()
            if content not in by_content:
                by_content[content] = None
                try:
                    clip = recorded(path)
                    if clip.any():
                        by_content[content] = len(clips)
                        clips.append(clip)
                    else:
                        left_out.append(f"{path.name}: silence")
                except (OSError, RuntimeError, ValueError) as error:  # soundfile's own is a RuntimeError
                    left_out.append(f"{path.name}: {error}")
            if (number := by_content[content]) is not None:
                numbers[path] = number
        return clips, numbers

    def _generate_examples(self):
        raise NotImplementedError  # tfds wants it overridden; `rows` above is all there is


def _paths(stamp: Stamp) -> list[Path]:
    """All recordings of a stamp."""
    return [path for paths in stamp.speech.values() for path in paths] + ([stamp.sound] if stamp.sound else [])


def _png(image: UInt8[np.ndarray, "S S 3"]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=6)
    return file.getvalue()
