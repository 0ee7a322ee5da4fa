"""What is said of data with known duplicates, leaks and unreadable items, before a run trains on them."""

import base64
import io
import re

import cv2
import numpy as np
import pytest
import soundfile

from mmjax.config import ConfigError, DataError
from mmjax.contract import Sheet
from mmjax.data.inspect import data_of, inspect, splits_of
from mmjax.data.inspect.alike import BANDS, DIFFERENCE, alike, look
from mmjax.data.pp.audio import Waveform
from mmjax.data.pp.builder import Padded
from mmjax.data.show import as_item, curves
from mmjax.report.inspection import write_inspection

SIZES = {"train": 40, "validation": 10, "test": 10, "lost": 3, "none": 0}
HOSTILE = "<script>alert('x')</script> & 油"


def picture(seed, size=48):
    """Coloured clouds, as unlike each other as photographs are."""
    clouds = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC)


def png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


class Photos:
    """Pictures and captions with known faults, see `changes`. Keys are the same in every split, and no places."""

    def __init__(self, split, keys="own"):
        if split not in SIZES:
            raise ConfigError(f"Photos has no split {split!r}: take one of {', '.join(SIZES)}.")
        self.split, self.keys, self.fingerprint = split, keys, f"photos {split}"
        first = 100 * list(SIZES).index(split)
        self.items = [
            {
                "image": png(picture(first + i)),
                "text": {"en": [f"thing {first + i}", f"item {first + i}"]},
                "key": first + i + 5_000,
                "place": i % 3,
            }
            for i in range(SIZES[split])
        ]
        for index, change in self.changes().get(split, {}).items():
            self.items[index].update(change)
        if keys == "places":
            for i, item in enumerate(self.items):
                item["key"] = i
        elif keys == "none":
            for item in self.items:
                del item["key"]

    @staticmethod
    def changes():
        again = cv2.imencode(".jpg", picture(7)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])[1].tobytes()
        return {
            "train": {
                9: {"image": png(picture(8))},  # as item 8, which has another key
                11: {"image": png(picture(10)), "key": 5_010},  # as item 10, and known to be
                20: {"image": b"no image", "id": "twenty.png"},
                21: {"text": {"en": ["fine at first", "  "]}},  # a draw of the second would fail
                22: {"text": None},
                23: {"text": {"en": "word " * 50}},
                24: {"text": {"en": HOSTILE}},
                25: {"image": png(picture(25, size=20))},
            },
            "validation": {2: {"image": png(picture(5))}},
            "test": {
                1: {"image": b""},
                3: {"image": again},
                4: {"text": {"en": "Thing  12"}},  # as train 12, but for what `lower` and `tokens` take away
                5: {"key": 5_013},
            },
            "lost": {i: {"image": b"no image"} for i in range(SIZES["lost"])},
        }

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def describe(self):
        return {"attribution": "made up"}


def config(pp=None, source=None, **data):
    pp = pp or {"image": "decode|resize(32)|random_affine(10, 0.1)|flip_lr", "text": 'choose("en")|lower|words_dropped(0.5)|tokens(20)'}
    return {"seed": 3, "data": {"source": {"name": f"{__name__}:Photos", **(source or {})}, "batch_size": 8, "pp": pp, **data}}


@pytest.fixture(scope="module")
def found():
    return inspected(["train", "validation", "test"], count=5, draws=3)


def inspected(splits, *arguments, count=1, draws=1, limit=10_000, **changes):
    return inspect(data_of(config(*arguments, **changes)), splits, count=count, draws=draws, limit=limit)


def verdicts(found):
    return {verdict.check: (verdict.fine, verdict.said) for verdict in found.verdicts}


def column(table, name):
    return [row[table.columns.index(name)] for row in table.rows]


def decoded(item):
    return cv2.imdecode(np.frombuffer(item.content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_leaks_between_splits(found):
    said = verdicts(found)
    assert said["between splits: equal image"] == (False, "1 of 10 validation items have exactly the image of one in train")
    assert said["between splits: alike image"] == (False, "1 of 9 test items have an image that looks like that of one in train")
    assert said["between splits: equal text"] == (False, "1 of 9 test items have a text of one in train")
    assert said["between splits: equal key"][1].startswith("1 of 9 test items have the key of one in train: the same item, or ")


def test_leaks_are_shown_side_by_side(found):
    sheets = found.sections["between splits"]
    assert list(sheets) == ["equal image", "alike image", "equal text", "equal key"]
    captions = {check: [[item.caption for item in row] for row in sheet.rows] for check, sheet in sheets.items()}
    assert captions["equal image"] == [["train 5, key 5005: thing 5", "validation 2, key 5102: thing 102"]]
    assert captions["alike image"] == [["train 7, key 5007: thing 7", "test 3, key 5203: thing 203"]]
    assert sheets["equal text"].titles == ["“thing 12” 2 items"]
    one, two = sheets["alike image"].rows[0]
    assert one.content != two.content and np.abs(decoded(one).astype(int) - decoded(two)).mean() < 12


def test_doubles_under_another_key_are_negatives_of_each_other(found):
    said = verdicts(found)
    assert said["within a split: equal image"] == (
        False,
        "2 train items have exactly the image of another under another key: negatives of each other",
    )
    assert said["within a split: alike image"][0] and said["within a split: equal text"][0]
    (row,) = found.sections["within a split"]["equal image"].rows
    assert [item.caption.split(",")[0] for item in row] == ["train 8", "train 9"], "10 and 11 share their key"


def test_what_is_unreadable_or_absent(found):
    said = verdicts(found)
    assert said["readable: train"][1].startswith(
        "2 of 40 items are unreadable: item 20: twenty.png: image: ValueError: not an image that can be decoded;"
    )
    assert "more than data.max_unreadable=0.01: training would stop" in said["readable: train"][1]
    assert said["readable: test"][0] is False and "stop" not in said["readable: test"][1], "one is never too many"
    assert said["readable: validation"][0] and said["present: image"][0]
    assert said["present: text"] == (False, "absent in 1 train items")
    rows = found.sections["counts"]["unreadable"].rows
    assert [row[:2] for row in rows] == [["train", 20], ["train", 21], ["test", 1]] and rows[1][2] == "text: ValueError: the text is empty"


def test_counts(found):
    items = found.sections["counts"]["items"]
    assert column(items, "split") == ["train", "validation", "test"] and column(items, "items") == [40, 10, 10]
    assert (
        column(items, "unreadable") == [2, 0, 1]
        and column(items, "with image") == [38, 10, 9]
        and column(items, "with text") == [37, 10, 9]
    )
    assert column(items, "text: texts") == [2 * 37 - 2, 20, 17] and column(items, "most tokens")[0] == len(("word " * 50).strip()) + 2
    fields = {row[0]: row[1:] for row in found.sections["counts"]["fields"].rows}
    assert fields == {"key": [37, 10, 9, 1], "place": [3, 3, 3, 3]}
    sizes = found.sections["counts"]["picture sizes"]
    assert column(sizes, "smallest") == ["20 × 20", "48 × 48", "48 × 48"] and column(sizes, "enlarged for the model") == ["3%", "0%", "0%"]
    words = found.sections["counts"]["words of text"].rows
    assert words[:3] == [["thing", 35, 10, 9], ["item", 35, 10, 8], ["word", 50, 0, 0]]


def test_lengths_and_what_is_cut(found):
    fine, said = verdicts(found)["text fits tokens(20)"]
    assert not fine and said == "texts that are cut: 2.8% of train, 0.0% of validation, 0.0% of test"
    bars = found.sections["counts"]["length of text"]
    assert set(bars.series) == {"train", "validation", "test"} and bars.labels[-1].endswith(" and more")
    assert np.nansum(bars.series["validation"]) == 1_000 and np.isnan(bars.series["test"][-1]) and bars.series["train"][-1] > 0


def test_the_sheet_shows_what_training_draws(found):
    data = data_of(config())
    examples, sheet = data.examples("train", train=True), found.sections["what the model sees"]["train examples"]
    assert isinstance(sheet, Sheet) and len(sheet.rows) == 5 and sheet.titles[0] == "train 0, key 5000, place 0"
    images = [item for item in sheet.rows[0] if item.kind == "image"]
    assert [item.caption for item in images] == ["image, evaluation", "image, draw 1", "image, draw 2", "image, draw 3"]
    for epoch in range(3):
        np.testing.assert_array_equal(decoded(images[epoch + 1]), examples.read(0, epoch)["image"])
    np.testing.assert_array_equal(decoded(images[0]), data.examples("train").read(0)["image"])

    texts = {item.content: item for item in sheet.rows[0] if item.kind == "text"}
    drawn = [examples.read(0, epoch, shown=True)["text"] for epoch in range(3)]
    assert set(texts) == {"thing 0", *drawn}
    assert texts["thing 0"].caption.startswith("text, evaluation")
    for text, item in texts.items():
        assert [piece for _, piece in item.pieces] == ["<begin>", *text, "<end>"]
        assert [i for i, _ in item.pieces] == [1, *data.tokenizer.encode(text), 2]


def test_features_are_shown_as_the_picture_before_them():
    found = inspected(["validation"], {"image": "decode|resize(32)|hog(8)"}, count=1)
    (item,) = found.sections["what the model sees"]["validation examples"].rows[0]
    assert item.caption == "image, every time" and decoded(item).shape == (32, 32, 3)


def test_one_stream_alone():
    texts = inspected(["train", "test"], {"text": 'choose("en")|tokens(8)'})
    assert "between splits: equal text" in verdicts(texts) and not any("image" in check for check in verdicts(texts))
    assert "picture sizes" not in texts.sections["counts"] and verdicts(texts)["readable: test"][0]
    images = inspected(["validation", "test"], {"image": "decode|resize(16)"})
    assert not any("text" in check for check in verdicts(images)) and "tokenizer" not in images.facts
    assert "LOOK  readable: test" in images.text()


def test_two_views_of_one_field_are_not_doubles_of_each_other():
    found = inspected(["validation"], {"image": "decode|resize(16)", "image_view2": "decode|resize(8)"})
    assert [check for check in verdicts(found) if "within" in check] == ["within a split: equal image", "within a split: alike image"]
    assert len(found.sections["what the model sees"]["validation examples"].rows[0]) == 2


@pytest.mark.parametrize("keys", ["places", "none"])
def test_keys_that_only_number_a_split_are_no_leaks(keys):
    found = inspected(["train", "test"], source={"keys": keys})
    assert "between splits: equal key" not in verdicts(found)
    assert verdicts(found)["within a split: equal image"][1].startswith("4 train items")


def test_only_texts_that_are_drawn_count():
    found = inspected(["train", "validation"], {"text": 'choose("en", aliases=False)|tokens(8)'})
    assert column(found.sections["counts"]["items"], "text: texts") == [39, 10] and verdicts(found)["readable: train"][0]


def test_a_sample_is_seeded_and_called_one():
    one, two = (inspected(["train", "test"], limit=10, count=1) for _ in range(2))
    assert one.text() == two.text() and one.facts["items read"] == "train 10 of 40 (a sample), test 10 of 10"
    assert "of train only samples were read, so there may be more" in verdicts(one)["between splits: equal image"][1]
    assert column(one.sections["counts"]["items"], "read") == [10, 10]


@pytest.mark.parametrize(
    ("change", "splits", "error", "message"),
    [
        ({"source": {"colour": 1}}, ["train"], ConfigError, "data.source.colour is unknown"),
        ({"threds": 4}, ["train"], ConfigError, "data.threds is unknown. Did you mean 'threads'?"),
        ({}, ["train", "tset"], ConfigError, "Photos has no split 'tset': take one of train"),
        ({}, ["train", "none"], DataError, "The none split is empty"),
        ({}, ["train", "lost"], DataError, "Nothing in the lost split is readable: ValueError: not an image"),
    ],
)
def test_what_training_would_refuse_is_refused_before_reading(change, splits, error, message):
    def never(*_):
        raise AssertionError("the items are read")

    with pytest.raises(error, match=re.escape(message)):
        inspect(data_of(config(**change)), splits, progress=never)


def test_a_config_without_data_or_with_a_source_that_is_not_there():
    with pytest.raises(ConfigError, match="config.data is missing"):
        data_of({"seed": 0})
    with pytest.raises(ConfigError, match="'openmojis' is not among the data.sources. Did you mean 'openmoji'"):
        data_of({"data": {"source": {"name": "openmojis"}, "pp": {"image": "decode"}, "batch_size": 2}})
    with pytest.raises(ConfigError, match=r"data\.source\.name is missing"):
        data_of({"data": {"source": {}, "pp": {"image": "decode"}, "batch_size": 2}})
    with pytest.raises(ConfigError, match="config.seed=-1"):
        data_of({**config(), "seed": -1})


def test_the_splits_are_those_that_a_run_reads():
    assert splits_of({}) == ["train"]
    assert splits_of({"evals": {"a": {"name": "x"}, "b": {"split": "dev", "final": None}}}) == ["train", "validation", "dev", "test"]


def test_too_few_for_a_batch_is_said():
    fine, said = verdicts(inspected(["train"], batch_size=64))["enough for a batch"]
    assert not fine and said == "40 training items, data.batch_size=64"


def test_the_page_needs_nothing_and_escapes_all(found, tmp_path):
    path = write_inspection(
        tmp_path / "out" / "inspect.html", "x<b>", facts=found.facts, verdicts=found.verdicts, sections=found.sections, config=config()
    )
    page = path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["inspect.html"], "nothing of a training run"
    assert "<script" not in page and "x<b>" not in page and not re.search(r'(src|href)="(?!data:image/png;base64,|#)', page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(set(ids)) == len(ids) and {link for link in re.findall(r'href="#([^"]+)"', page)} <= set(ids)
    for verdict in found.verdicts:
        assert verdict.check in page
    images = sum(
        item.kind == "image"
        for part in found.sections.values()
        for a in part.values()
        if isinstance(a, Sheet)
        for row in a.rows
        for item in row
    )
    assert page.count("<img ") == images > 30
    first = re.search(r'<img src="data:image/png;base64,([^"]+)"', page)[1]
    assert base64.b64decode(first)[:4] == b"\x89PNG"


def looks(images):
    both = [look(image) for image in images]
    return np.array([x.hash for x in both]), np.stack([x.thumbnail for x in both])


def test_copies_look_alike_and_other_pictures_do_not():
    def cropped(x):
        return np.ascontiguousarray(x[1:-1, 1:-1])

    def recompressed(x):
        return cv2.imdecode(cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)

    copies = [recompressed, cropped, lambda x: cv2.resize(x, (50, 70)), lambda x: cv2.convertScaleAbs(x, alpha=0.93, beta=5)]
    originals = [picture(i, 100) for i in range(40)]
    labels = alike(*looks([*originals, *(copies[i % 4](x) for i, x in enumerate(originals))]))
    assert len(set(labels[:40].tolist())) == 40
    assert np.mean(labels[:40] == labels[40:]) > 0.95


def test_one_colour_is_alike_only_to_itself():
    noise = np.random.default_rng(0)
    plain = [np.full((32, 32, 3), colour, np.uint8) for colour in ((255, 0, 0), (255, 255, 255), (0, 0, 0), (0, 76, 130))]
    noisy = [np.clip(x + noise.integers(-2, 3, x.shape), 0, 255).astype(np.uint8) for x in plain]
    labels = alike(*looks([*plain, *noisy])).tolist()
    assert labels[:4] == labels[4:] and len(set(labels)) == 4
    grey = np.full((32, 32, 1), 255, np.uint8)
    assert alike(*looks([plain[1], grey])).tolist() == [0, 0]


def test_candidates_are_at_least_all_pairs_that_differ_in_fewer_bits_than_there_are_bands():
    """Against every pair; hashes differ from one of 60 in up to nine bits, in random places."""
    rng = np.random.default_rng(1)
    hashes = np.repeat(rng.integers(0, 2**64, 60, dtype=np.uint64), 4)
    for i in range(len(hashes)):
        for bit in rng.choice(64, i % 10, replace=False):
            hashes[i] ^= np.uint64(1) << np.uint64(bit)
    thumbnails = np.zeros((len(hashes), 16, 16, 3), np.uint8)
    thumbnails[:, 0, 0, 0], thumbnails[:, 1, 1, 1] = np.divmod(np.arange(len(hashes)), 40)  # equal ones would be one picture
    labels = alike(hashes, thumbnails)
    bits = np.bitwise_count(hashes[:, None] ^ hashes)
    together = labels[:, None] == labels
    assert together[bits < BANDS].all() and (bits < BANDS).sum() > 2 * len(hashes)
    assert not together[np.arange(240)[:, None] // 4 != np.arange(240) // 4].any(), "unlike hashes are no candidates"
    thumbnails[::2, 5, 5] = np.ceil(DIFFERENCE * 255) + 1
    assert not (alike(hashes, thumbnails)[::2, None] == alike(hashes, thumbnails)[1::2]).any(), "the thumbnail decides"
    assert alike(hashes[:0], thumbnails[:0]).tolist() == []


def test_items_of_anything():
    assert as_item("words", "c").content == "words"
    assert as_item(np.array(7, np.int32)).content == "7" and as_item(np.zeros((5, 7), np.float32)).content == "float32 [5, 7]"
    bright = as_item(np.full((4, 4, 3), 1.0, np.float32), side=2)
    assert decoded(bright).shape == (2, 2, 3) and decoded(bright).min() == 255
    assert decoded(as_item(np.zeros((100, 10, 3), np.uint8), side=50)).shape == (50, 5, 3)


def clip(seed, seconds=0.5, rate=16_000):
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="FLAC")
    return out.getvalue()


class Clips:
    """Words with recordings and a sensor; one recording of item 3 is one of item 1, the sensor of item 2 that of item 0."""

    fingerprint = "clips"

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return 6

    def __getitem__(self, i):
        same = 0 if i == 2 else i
        sensor = np.random.default_rng(same).normal(size=(20 + same, 3)).astype(np.float32)
        others = [clip(101 if i == 3 else 100 + i, 0.25, 8_000)]
        return {"audio": {"fr": [clip(i), *others], "en": [clip(50)]}, "series": sensor, "key": i}

    def describe(self):
        return {}


def test_clips_and_series_are_shown_counted_and_compared():
    pp = {"audio": 'choose("fr")|decode(16_000)|crop_or_pad(1)', "series": "window(8)"}
    data = data_of({"data": {"source": {"name": "test_inspect:Clips"}, "pp": pp, "batch_size": 4}})
    found = inspect(data, ["train"], count=2, draws=3)
    table = found.sections["counts"]["lengths"]
    assert table.rows[0] == ["audio", "train", 12, "0.2 s", "0.5 s", "0.5 s", "4.5 s", "16,000 Hz (6), 8,000 Hz (6)"]
    assert table.rows[1] == ["series", "train", 6, "20", "23", "25", "133", "3 channels (6)"]
    said = {v.check: v.said for v in found.verdicts}
    for stream in ("audio", "series"):
        assert said[f"within a split: equal {stream}"].startswith(f"2 train items have exactly the {stream} of another")
        assert [item.kind for item in found.sections["within a split"][f"equal {stream}"].rows[0]] == [stream] * 2
    first = found.sections["what the model sees"]["train examples"].rows[0]
    assert [item.kind for item in first].count("audio") == 4 and [item.kind for item in first].count("series") == 4


def test_a_clip_is_shown_as_sound():
    tone = (0.5 * np.sin(np.arange(44_100 * 12) * 0.05)).astype(np.float32)
    item = as_item(Waveform(tone, 44_100), "a tone")
    heard, rate = soundfile.read(io.BytesIO(item.content))
    assert item.kind == "audio" and item.caption == "a tone, 12.0 s"
    assert rate == 24_000 and abs(len(heard) / rate - 10) < 0.2, "the first ten seconds"
    spectrum = np.abs(np.fft.rfft(heard))
    assert spectrum.argmax() * rate / len(heard) == pytest.approx(44_100 * 0.05 / 2 / np.pi, rel=0.01)


def test_a_series_is_shown_as_curves_of_what_is_valid():
    wave = np.stack([np.linspace(0, 1, 40), np.full(40, 0.5)], axis=1).astype(np.float32)
    padded = Padded(np.concatenate([wave, np.full((60, 2), 99, np.float32)]), np.arange(100) < 40)
    rising, level = (curves(padded) != 255).any(axis=2), curves(wave[:, 1:])
    assert as_item(padded).kind == "series" and (curves(wave) == curves(padded)).all()
    first, last = (np.flatnonzero(rising[:, x]) for x in (4, 120))
    assert first.max() > 55 and last.min() < 8, "from the lower left to the upper right"
    assert level.shape == (64, 128, 3) and curves(np.zeros((0, 3), np.float32)).min() == 255
