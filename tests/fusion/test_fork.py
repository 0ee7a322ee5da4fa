"""A fusion outside the tree, the one that the README shows: checked, trained and evaluated by its name alone."""

import importlib
import re
from pathlib import Path

import jax
import pytest

from mmjax.testing import fusion
from mmjax.train.loop import train
from toy import toy_config

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """The README's file in a package of somebody's own."""
    (path, text), folder = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", README, re.DOTALL)[0], tmp_path_factory.mktemp("fork")
    (folder / path).parent.mkdir()
    (folder / path).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield re.findall(r'fusion=dict\(name="(my_\S+?)"\)', README)[0]


@pytest.fixture(scope="module")
def subject(named):
    module, _, cls = named.partition(":")
    return fusion.of_fusion(getattr(importlib.import_module(module), cls))


@pytest.mark.parametrize("check", fusion.CHECKS, ids=lambda check: check.__name__)
def test_it_passes_every_check(check, subject):
    check(subject)


def test_it_is_trained_and_evaluated_by_its_name(named, tmp_path):
    config = toy_config(steps=4, data__source={"name": "toy:Labelled"}, data__pp__label="index()")
    config["model"] = {
        "name": "fuser",
        "encoders": config["model"]["encoders"],
        "fusion": {"name": named, "width": 16},
        "heads": {"label": {"size": 3}},
    }
    config["objectives"] = {"label": {"name": "cross_entropy"}}
    config["evals"] = {"classification": {"name": "classification"}}
    with jax.numpy_dtype_promotion("standard"):
        results = train(config, tmp_path / "run")
    assert 0 <= results["test/classification/accuracy"] <= 1 and "test/classification/accuracy/majority" in results
