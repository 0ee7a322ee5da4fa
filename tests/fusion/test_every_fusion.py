"""Every file in mmjax/fusion passes every check of `mmjax/testing/fusion.py`."""

from functools import cache

import pytest

from mmjax import config
from mmjax.testing import fusion


@cache
def subject(name):
    return fusion.of_fusion(config.resolve("fusion", name))


@pytest.mark.parametrize("check", fusion.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", config.names("fusion"))
def test_fusion(name, check):
    check(subject(name))


def test_the_folder_is_found():
    assert "concat" in config.names("fusion")
