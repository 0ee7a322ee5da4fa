"""Every file in mmjax/objectives passes every check of `mmjax/testing/objectives.py`."""

from functools import cache

import pytest

from mmjax import config
from mmjax.testing import objectives


@cache
def subject(name):
    return objectives.of_objective(config.resolve("objectives", name))


@pytest.mark.parametrize("check", objectives.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", config.names("objectives"))
def test_objective(name, check):
    check(subject(name))


def test_the_folder_is_found():
    assert {"contrastive", "cross_entropy", "bce", "ordinal", "regression", "auxiliary"} <= set(config.names("objectives"))
