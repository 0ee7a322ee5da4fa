"""Every file in mmjax/encoders passes every check of `tests/checks.py`."""

from functools import cache

import pytest

import checks
from mmjax import config


@cache
def subject(name):
    return checks.of_encoder(config.resolve("encoders", name))


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", config.names("encoders"))
def test_encoder(name, check):
    check(subject(name))


def test_the_folder_is_found():
    assert {"vit", "text_transformer", "resnet"} <= set(config.names("encoders"))
