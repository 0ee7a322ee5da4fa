"""Tags and values: lists of classes to bool [C], numbers to float32; what is absent, what is no class and no number."""

import numpy as np
import pytest

from mmjax.config import ConfigError, DataError
from mmjax.data.pp.builder import parse

NAMES = ("cat", "dog", "emu")


def op(text, stream, classes=NAMES):
    return lambda x: parse(text, stream, {"classes": classes} if stream == "tags" else {})(x, None)


def test_tags_are_names_or_numbers_and_none_of_them_is_present():
    tags = op("multi_hot()", "tags")
    assert tags(["emu", 0]).tolist() == [True, False, True] and tags("dog").tolist() == [False, True, False]
    assert tags([]).tolist() == [False] * 3 and tags([]).dtype == bool
    assert op("multi_hot(2)", "tags", None)([1]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "classes", "tags", "message"),
    [
        ("multi_hot()", NAMES, ["dgo"], "'dgo' is none of the source's classes. Did you mean 'dog'"),
        ("multi_hot()", None, [0], r"say how many there are, as in multi_hot\(20\)"),
        ("multi_hot(2)", None, [2], "The tag 2 is no class: it should be from 0 to 1"),
        ("multi_hot()", NAMES, [-1], "The tag -1 is no class"),
    ],
)
def test_what_is_no_tag(text, classes, tags, message):
    with pytest.raises(DataError, match=message):
        op(text, "tags", classes)(tags)


def test_numbers():
    value = op("number()|scale(1.0, 2.0)", "value")
    assert value(3).dtype == np.float32 and value("5") == 2 and value([1, 3]).tolist() == [0, 1]
    assert op("number()", "value")(float("nan")) is None and op("number()", "value")(None) is None
    for wrong in ("five", float("inf"), [[1.0]]):
        with pytest.raises(DataError, match="is no number|should be a finite number"):
            op("number()", "value")(wrong)


@pytest.mark.parametrize(("stream", "text"), [("value", "number()|scale(0, 0)"), ("tags", "multi_hot(2)"), ("tags", "multi_hot(0)")])
def test_arguments_that_cannot_be(stream, text):
    with pytest.raises(ConfigError, match="should be|source has 3 classes"):
        op(text, stream)([1])
