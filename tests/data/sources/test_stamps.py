"""Tux Paint's stamps: made-up ones in the real format, and the real ones where MMJAX_STAMPS says where they are (make test-stamps)."""

import io
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from configs import _smoke
from mmjax.config import ConfigError, DataError
from mmjax.data.loader import Data
from mmjax.data.sources import _stamps_builder as builder
from mmjax.data.sources.stamps import SPLITS, UNHEARD, Stamps, split_of

RATE = builder.RATE


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Arguments of `Stamps` for a folder with everything that the real one has, its quirks and a broken clip among it."""
    config = _smoke.stamps(tmp_path_factory.mktemp("stamps") / "stamps")
    root = Path(config["root"])
    square = '<svg xmlns="http://www.w3.org/2000/svg" width="20pt" height="10pt"><rect width="10pt" height="10pt" fill="red"/></svg>'
    (root / "animals" / "drawn.svg").write_text(square)
    (root / "animals" / "drawn.txt").write_text("A drawing.\nxx.utf8=\nno line of a language\n")
    picture = Image.open(root / "animals" / "thing0.png")
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "food" / "mirrored.png")  # thing 0 again
    (root / "food" / "mirrored.txt").write_text("Quite another text.\n")
    picture.save(root / "animals" / "thing0_mirror.png")  # of thing 0 itself
    samples, rate = soundfile.read(root / "animals" / "thing3_desc_fr.ogg")
    quiet = np.concatenate([np.zeros(rate // 10), 0.3 * samples, np.zeros(rate // 20)])
    soundfile.write(root / "food" / "thing4_desc.wav", quiet, rate)  # thing 3 is heard there, in English
    soundfile.write(root / "food" / "thing10.ogg", np.zeros(800), 8_000)
    (root / "food" / "thing1_desc_ru.ogg").write_bytes(b"OggS, but no more of it")
    (root / "food" / "thing7.txt").write_text("  thing number 13\nfr.utf8=Tout autre chose.\n")  # thing 13's text
    return {name: value for name, value in config.items() if name != "name"}


@pytest.fixture(scope="session")
def sources(made):
    return {split: Stamps(split, **made) for split in SPLITS}


@pytest.fixture(scope="session")
def rows(sources):
    return {split: {row["id"]: row for row in map(source.__getitem__, range(len(source)))} for split, source in sources.items()}


def everything(rows):
    return rows["train"] | rows["validation"] | rows["test"]


def about(sources):
    return {one["id"]: one for one in sources["train"]._about}


def test_an_example(rows):
    unheard = rows["validation"] | rows["test"]  # training does not hear all languages
    row = next(row for id, row in unheard.items() if id.startswith("naturalforces") and "audio_sound" in row)
    number = row["id"].removeprefix("naturalforces/thing")
    assert row["label"] == "natural forces"
    assert row["text"] == {"en": [f"Thing number {number}."], "fr": [f"Chose numéro {number}."], "ru": [f"Вещь номер {number}."]}
    assert set(row["audio_speech"]) == {"fr", "ru", "be", "el"}
    for clip in (row["audio_sound"], row["audio_speech"]["fr"][0]):
        samples, rate = soundfile.read(io.BytesIO(clip))
        assert clip[:4] == b"fLaC" and rate == RATE and samples.ndim == 1 and len(samples) == pytest.approx(0.4 * RATE, abs=2)
        assert 20 * np.log10(np.sqrt(np.mean(samples**2))) == pytest.approx(builder.LOUDNESS, abs=0.1)
    picture = Image.open(io.BytesIO(row["image"]))
    assert picture.size == (builder.SIZE, builder.SIZE) and picture.getpixel((0, 0)) == (255, 255, 255)  # 4 : 3, white above


def test_svg_and_transparency(rows):
    picture = np.asarray(Image.open(io.BytesIO(everything(rows)["animals/drawn"]["image"])))
    assert tuple(picture[72, 36]) == (255, 0, 0) and tuple(picture[72, 108]) == tuple(picture[0, 0]) == (255, 255, 255)
    assert everything(rows)["animals/drawn"]["text"] == {"en": ["A drawing."]} and "audio_speech" not in everything(rows)["animals/drawn"]


def test_every_stamp_is_in_one_split_with_its_group(sources, rows):
    assert len(everything(rows)) == sum(len(rows[split]) for split in ("train", "validation", "test")) == 50
    for split in ("train", "validation", "test"):
        assert all(split_of(row["group"]) == split and row["group"] == about(sources)[id]["group"] for id, row in rows[split].items())


def test_what_shares_a_picture_a_text_or_a_recording_is_one_group(sources):
    group = {id: one["group"] for id, one in about(sources).items()}
    together = [["animals/thing0", "food/mirrored"], ["animals/thing3", "food/thing4"], ["food/thing7", "food/thing13"]]
    for a, b in together:
        assert group[a] == group[b], (a, b)
    assert len(set(group.values())) == len(group) - len(together), "nothing else is"


def test_keys_are_equal_for_a_text_or_a_recording_but_not_for_a_look(rows):
    key = {id: row["key"] for id, row in everything(rows).items()}
    assert key["food/thing7"] == key["food/thing13"] and key["animals/thing3"] == key["food/thing4"]
    assert key["animals/thing0"] != key["food/mirrored"] and "animals/thing0_mirror" not in key


def test_new_recordings_are_of_known_stamps_and_in_training_nobody_hears_them(rows):
    assert rows["test_recordings"] and set(rows["test_recordings"]) <= set(rows["train"])
    for id, row in rows["test_recordings"].items():
        heard = set(rows["train"][id].get("audio_speech", {}))
        assert set(UNHEARD) <= set(row["audio_speech"]) and not heard & set(row["audio_speech"])
        assert rows["train"][id]["image"] == row["image"]
    assert {la for row in rows["test_recordings"].values() for la in row["audio_speech"]} == {"fr", "ru", *UNHEARD}
    assert not {la for row in rows["train"].values() for la in row.get("audio_speech", {})} & set(UNHEARD)


def test_other_languages_can_be_held_out(made):
    other = Stamps("train", **made, unheard=("ru",))
    assert "ru" not in {la for i in range(len(other)) for la in other[i].get("audio_speech", {})}
    with pytest.raises(ConfigError, match=r"no recordings in 'xx': unheard may name be, el, en, fr, ru"):
        Stamps("train", **made, unheard=("xx",))


def test_silence_and_a_broken_clip_are_counted_and_left_out(sources, rows):
    lines = [line for (line,) in sources["test"].describe()["left_out"].rows]
    assert len(lines) == 2 and lines[0].startswith("thing1_desc_ru.ogg: ") and "thing10.ogg: silence" in lines
    assert "audio_sound" not in everything(rows)["food/thing10"]
    assert everything(rows)["food/thing1"]["text"]


def test_describe_counts_what_there_is(sources, rows):
    for split, stamps, groups, speech, sounds in sources["train"].describe()["splits"].rows:
        assert stamps == len(rows[split])
        assert groups == len({about(sources)[id]["group"] for id in rows[split]})
        assert speech == sum(len(clips) for row in rows[split].values() for clips in row.get("audio_speech", {}).values())
        assert sounds == sum("audio_sound" in row for row in rows[split].values())


def test_without_the_package_one_line_says_how_to_get_it(tmp_path):
    with pytest.raises(
        DataError, match=r"apt install tuxpaint-stamps-default; or, without root, 'apt-get download .*root='stamps'"
    ) as error:
        Stamps("train", root=str(tmp_path / "nowhere"))
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="no split 'valid'"):
        Stamps("valid", root=str(tmp_path))
    with pytest.raises(DataError, match="it has no stamps"):
        Stamps("train", root=str(tmp_path), data_dir=str(tmp_path / "data"))


def test_what_dpkg_unpacked_is_found(made, sources, tmp_path):
    shutil.copytree(made["root"], tmp_path / "usr" / "share" / "tuxpaint" / "stamps")
    again = Stamps("test", root=str(tmp_path), data_dir=made["data_dir"])  # the same files: nothing is prepared again
    assert again.fingerprint == sources["test"].fingerprint


def test_a_stream_that_the_stamps_lack_is_named_with_those_they_have(made):
    data = Data(dict(name="stamps", **made), {"image": "decode|resize(8)", "series": "finite"}, 4)
    with pytest.raises(ConfigError, match=r"pp.series: no example of the train split has it. They have: audio_.*image.*text"):
        data.examples("train")


def test_over_the_folds_every_group_is_tested_once(sources, made):
    tested = Counter()
    for fold in range(5):
        rows = {
            split: [row["id"] for row in map(source.__getitem__, range(len(source)))]
            for split in ("train", "validation", "test")
            for source in [Stamps(split, **made, fold=fold)]
        }
        groups = {split: {about(sources)[id]["group"] for id in ids} for split, ids in rows.items()}
        assert sum(map(len, rows.values())) == 50 and sum(map(len, groups.values())) == len(set().union(*groups.values()))
        tested.update(rows["test"])
    assert len(tested) == 50 and set(tested.values()) == {1}
    with pytest.raises(ConfigError, match="fold=5 should be"):
        Stamps("train", **made, fold=5)


@pytest.mark.slow
@pytest.mark.skipif("MMJAX_STAMPS" not in os.environ, reason="MMJAX_STAMPS names no folder with the real stamps")
def test_the_real_stamps(tmp_path):
    sources = {split: Stamps(split, root=os.environ["MMJAX_STAMPS"], data_dir=str(tmp_path)) for split in SPLITS}
    counts = {row[0]: row[1:] for row in sources["train"].describe()["splits"].rows}
    assert sum(counts[split][0] for split in ("train", "validation", "test")) == 950
    assert sum(counts[split][3] for split in ("train", "validation", "test")) > 100  # sounds
    assert len(sources["train"].classes["label"]) == 16
    texts = {split: set() for split in ("train", "validation", "test")}
    for split, found in texts.items():
        for i in range(len(sources[split])):
            row = sources[split][i]
            found.add(builder.words(row["text"]["en"][0]))
            for clips in row.get("audio_speech", {}).values():
                assert all(soundfile.info(io.BytesIO(clip)).samplerate == RATE for clip in clips)
    assert not texts["train"] & (texts["validation"] | texts["test"]) and not texts["validation"] & texts["test"]
