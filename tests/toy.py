"""A synthetic source for tests: squares of one colour, and the colour in words. Some can be made unreadable."""

import cv2
import numpy as np

from mmjax.data.examples import each
from mmjax.data.pp.builder import Padded

SIZES = {"train": 64, "validation": 20, "test": 20}
LEVELS = ("dark", "middling", "bright")


class Toy:
    """`broken` are the indices whose image is no image, `empty` those whose text is blank, `nan` those whose image is NaN."""

    def __init__(self, split, size=None, broken=(), empty=(), version=1):
        self.split, self.size = split, size or SIZES[split]
        self.broken, self.empty = set(broken), set(empty)
        self.fingerprint = f"toy {split} {self.size} {version}"

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        colour = np.random.default_rng((index, len(self.split))).integers(0, 256, 3)
        image = cv2.imencode(".png", np.broadcast_to(colour[::-1].astype(np.uint8), (8, 8, 3)))[1].tobytes()
        words = " ".join(f"{LEVELS[level // 86]} {name}" for level, name in zip(colour, ("red", "green", "blue"), strict=True))
        if index in self.broken:
            image = b"not an image"
        return {
            "image": image,
            "text": {"en": ["  " if index in self.empty else words, f"number {index}"], "xx": [f"item{index}"]},
            "key": index,
        }

    def describe(self):
        return {"attribution": "made up"}


class Labelled(Toy):
    """With labels: the number or the name of a class, or None. `labels` are those of each split, by default the brightest colour.

    Keys tell splits apart, so that made-up features can be looked up by them.
    """

    def __init__(self, split, labels=None, names=("red", "green", "blue"), broken=()):
        self.labels = None if labels is None else labels[split]
        super().__init__(split, size=labels and len(self.labels), broken=broken)
        self.classes = {"label": tuple(names)} if names else {}

    def __getitem__(self, index):
        row = super().__getitem__(index)
        words = row["text"]["en"][0].split()
        brightest = max(range(3), key=lambda c: (LEVELS.index(words[2 * c]), c))
        return {
            **row,
            "label": brightest if self.labels is None else self.labels[index],
            "value": index / 10,
            "key": 1_000 * list(SIZES).index(self.split) + index,
        }


class Spoken:
    """Twelve examples, most of which lack something: pictures, a word in two languages spoken by several, and noises.

    Of every third there is no recording, of every fourth no picture, and of odd ones no noise. Clips are bytes: see `wave`.
    """

    classes = {"label": ("animal", "plant", "thing")}
    fingerprint = "spoken"

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return 12

    def __getitem__(self, index):
        clip = lambda *place: bytes(np.random.default_rng((index, *place)).integers(0, 256, 32).tolist())  # noqa: E731
        example = {"text": {"en": f"word {index}"}, "label": index % 3, "key": 500 + index}
        if index % 4 != 3:
            picture = np.full((8, 8, 3), 20 * index, np.uint8)
            example["image"] = cv2.imencode(".png", picture)[1].tobytes()
        if index % 3 != 2:
            example["audio_speech"] = {"en": [clip(0), clip(1)], "fr": [clip(2)]}
        if index % 2 == 0:
            example["audio_sound"] = clip(3)
        return example

    def describe(self):
        return {}


def take(*languages):
    """An operation on audio: the first recording in the first language."""
    return lambda x: next((each(x[language])[0] for language in languages or x if language in x), None) if isinstance(x, dict) else x


def wave(length):
    """An operation on audio: bytes as samples in [-1, 1]."""

    def op(x):
        value, n = np.zeros(length, np.float32), min(length, len(x))
        value[:n] = np.frombuffer(x, np.uint8)[:n] / np.float32(127.5) - 1
        return Padded(value, np.arange(length) < n)

    return op


def toy_config(**changes):
    """A run on `Toy` that takes seconds; `changes` are dotted paths with double underscores for dots."""
    config = {
        "steps": 6,
        "data": {
            "source": {"name": "toy:Toy"},
            "batch_size": 16,
            "pp": {
                "image": "decode|random_affine(10, 0.1)|flip_lr",
                "text": 'choose("en", aliases=False)|lower|words_dropped(0.1)|tokens(40)',
            },
        },
        "model": {
            "name": "aligner",
            "width": 8,
            "encoders": {
                "image": {"name": "vit", "patch": 4, "width": 16, "depth": 1, "heads": 2},
                "text": {"name": "text_transformer", "vocab": 259, "width": 16, "depth": 1, "heads": 2, "dropout": 0.1},
            },
        },
        "objectives": {"contrastive": {"name": "contrastive", "pairs": [["image", "text"]]}},
        "optimizer": {"name": "adamw", "lr": 1e-2, "warmup": 2},
        "evals": {"retrieval": {"name": "retrieval", "every": 3, "baseline": None}, "loss": {"name": "loss", "every": 3}},
        "checkpoint": {"every": 2, "best": None},
        "log": {"every": 1, "tensorboard": False},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return config
