"""Every config loads, has the shapes of a model at full size, and trains one shrunk run."""

import importlib.util
from pathlib import Path

import jax
import pytest
from jax.sharding import AxisType

from mmjax.config import ConfigError, changed
from mmjax.contract import MESH_AXES
from mmjax.data.examples import Spec
from mmjax.study import compare
from mmjax.train import build
from mmjax.train.build import parts_of
from mmjax.train.evaluation import check_evaluators
from mmjax.train.loop import train

EVERY = sorted(p for p in (Path(__file__).parents[2] / "configs").rglob("*.py") if not p.stem.startswith("_"))
CONFIGS = [p for p in EVERY if not p.stem.startswith("compare_")]
pytestmark = pytest.mark.usefixtures("settings")


@pytest.fixture
def settings():
    """Flax's own norms mix bfloat16 and float32; and what runs two steps need not be compiled to be fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.numpy_dtype_promotion("standard"):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def load(path, arg=""):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_at_full_size_every_name_resolves_and_every_shape_fits(path):
    config = load(path)
    parts_of(config)
    config.data.source = load(path, "smoke").data.source  # its own is not on every machine
    parts = parts_of(config)
    with jax.set_mesh(parts.mesh), jax.numpy_dtype_promotion("standard"):  # flax's own norms mix bfloat16 and float32
        shapes = parts.state_shapes()
    assert sum(x.size for x in jax.tree.leaves(shapes.params)) > 50_000
    assert all(isinstance(spec, Spec) for spec in parts.data.spec.values())


def one_device(**_):
    """The mesh of a laptop, for which a program compiles in half the time; those of several devices are tested in `tests/train`."""
    return jax.make_mesh((1, 1, 1, 1), MESH_AXES, (AxisType.Auto,) * len(MESH_AXES), devices=jax.devices()[:1])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_one_shrunk_run(path, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "make_mesh", one_device)
    results = train(load(path, "smoke"), tmp_path / "run")
    assert (tmp_path / "run" / "results.json").exists() and any(name.startswith("test/") for name in results)


@pytest.mark.parametrize("path", [p for p in EVERY if p not in CONFIGS], ids=lambda p: p.stem)
def test_every_row_of_a_comparison_is_a_run(path):
    """In every fold: names resolve, figures are measured, and the evaluators fit the data of each modality alone, too."""
    plan = compare.plan(load(path, "smoke"), fusion="all")
    assert {unit.row.name for unit in compare.units(Path("x"), plan)} >= {"concat", "decision", "gated"}
    for row in plan.rows:
        if "model.encoders" in row.changes or row.name == "concat":
            parts = parts_of(changed(plan.run, row.changes, plan.folds[0]))
            check_evaluators(parts)


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.stem)
def test_an_unknown_argument_is_named(path):
    with pytest.raises(ConfigError, match="'smoek' is unknown. Did you mean 'smoke'"):
        load(path, "smoek")
