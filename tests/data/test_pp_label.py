"""Labels: names and numbers to int32, what is absent, what is no class."""

import numpy as np
import pytest

from mmjax.config import ConfigError, DataError
from mmjax.data.examples import Examples
from mmjax.data.pp.builder import parse

NAMES = ("cat", "dog", "emu")


class Labels:
    """A source of nothing but labels."""

    fingerprint = "labels"

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"label": self.labels[index], "key": index}

    def describe(self):
        return {}


def examples(labels, classes=NAMES, stream="label"):
    return Examples(Labels(labels), {stream: parse("index()", stream, {"classes": classes})}, split="train", seed=None)


@pytest.mark.parametrize("stream", ["label", "label_species"])
def test_names_and_numbers_become_int32_and_none_and_minus_one_are_absent(stream):
    rows = examples(["dog", 2, None, -1, np.int64(0)], stream=stream)
    batch = rows.collate([rows.read(i) for i in range(5)] + [None])
    assert batch[stream].dtype == np.int32 and batch[stream].shape == (6,)
    assert batch[f"{stream}/present"].tolist() == [True, True, False, False, True, False]
    assert batch[stream][batch[f"{stream}/present"]].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("label", "classes", "message"),
    [
        ("dgo", NAMES, "Item 1 of the train split: The label 'dgo' is none of the source's classes. Did you mean 'dog'. Known: cat"),
        ("dog", None, "The label 'dog' is a name, and the source has no classes"),
        (3, NAMES, "The label 3 is no class: it should be from 0 to 2, or -1"),
        (-2, None, "The label -2 is no class: it should be 0 or more"),
    ],
)
def test_what_is_no_class_stops_reading_with_its_place(label, classes, message):
    rows = examples([0, label], classes)
    with pytest.raises(DataError, match=message.replace("'. K", "'.? K")):
        rows.read(1)


def test_a_split_without_labels_and_a_label_that_is_no_number():
    with pytest.raises(ConfigError, match="data.pp.label: no example of the train split has it"):
        examples([None, None])
    rows = examples([0, 2.5])
    with pytest.raises(Exception, match="cannot be interpreted as an integer"):
        rows.read(1)
