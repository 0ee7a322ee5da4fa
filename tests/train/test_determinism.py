"""The same batches and seed give the same curve on any number of devices, and a run goes on with it on another mesh."""

import json

import jax
import numpy as np
import pytest

from mmjax.train.loop import train
from mmjax.train.sharding import make_mesh
from toy import toy_config

STEPS = 50


def curve(workdir, devices, monkeypatch, steps=STEPS, **mesh):
    """The losses of a run on so many devices, from wherever `workdir` stands."""
    monkeypatch.setattr("mmjax.train.build.make_mesh", lambda **sizes: make_mesh(**{**sizes, "devices": jax.devices()[:devices]}))
    optimizer = {"name": "adamw", "lr": 3e-3, "warmup": 5, "clip": 1.0, "schedule": "constant"}
    augmented = {"data__batch_pp": {"image": "normalise"}, "data__modality_dropout": 0.1}  # what is drawn on the devices, too
    train(toy_config(steps=steps, evals={}, checkpoint={"every": 20, "best": None}, optimizer=optimizer, mesh=mesh, **augmented), workdir)
    return np.array([json.loads(line)["train/loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()])


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return curve(tmp_path_factory.mktemp("one") / "run", 1, patch)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_the_curve_is_that_of_one_device(devices, one_device, tmp_path, monkeypatch):
    got = curve(tmp_path / "run", devices, monkeypatch)
    assert len(got) == STEPS and one_device[-10:].mean() < 0.9 * one_device[:10].mean(), "it learns something"
    np.testing.assert_allclose(got[0], one_device[0], rtol=1e-6)
    np.testing.assert_allclose(got, one_device, rtol=1e-3)


def test_a_run_goes_on_with_its_curve_on_another_mesh(one_device, tmp_path, monkeypatch):
    first = curve(tmp_path / "run", 8, monkeypatch, steps=20)
    whole = curve(tmp_path / "run", 4, monkeypatch, data=1, fsdp=2, tensor=2, fsdp_min_size=64)
    assert len(first) == 20 and len(whole) == STEPS
    np.testing.assert_allclose(whole, one_device, rtol=1e-3)
