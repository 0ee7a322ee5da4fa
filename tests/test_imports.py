"""What imports what: rows of the house, and what must not be loaded for a training step."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top down: a file may import any lower row, and its own package, but no sibling.
ROWS = [
    {"experiments"},
    {"study"},
    {"train", "report", "testing"},
    {"evals"},
    {"models", "weights"},
    {"data", "encoders", "fusion", "objectives"},
    {"nn"},
    {"ops"},
    {"contract", "config"},
]
ROW = {name: i for i, row in enumerate(ROWS) for name in row}


def modules_imported(path):
    """Full names of what a file imports, wherever in it; `from mmjax import config` is `mmjax.config`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"mmjax.{a.name}" for a in node.names) if node.module == "mmjax" else (node.module,))


FILES = sorted(p for p in (ROOT / "mmjax").rglob("*.py") if p.parent != ROOT / "mmjax" or p.stem in ROW)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path):
    own = path.relative_to(ROOT / "mmjax").parts[0].removesuffix(".py")
    assert own in ROW, f"{own} has no place in the house: docs/architecture.md"
    for name in modules_imported(path):
        if not name.startswith("mmjax."):
            assert not (own in ("ops", "data", "contract", "config") and name.split(".")[0] == "flax"), f"{path.name} imports flax"
            continue
        other = name.split(".")[1]
        if other != own:
            assert ROW[other] > ROW[own], f"{path.name} ({own}) imports {other}"
            assert own != "report" or other in ("contract", "config"), f"report imports {other}"


def loaded_by(statement):
    """Top-level packages in memory after a statement, in a new process."""
    loaded = "{m.split('.')[0] for m in sys.modules} | {m for m in sys.modules if 'config_flags' in m}"
    code = f"import sys; {statement}; print(*sorted({loaded}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={"PATH": "", "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["mmjax.train.loop", "mmjax.models.aligner", "mmjax.train.step"])
def test_training_imports_nothing_heavy(module):
    heavy = {
        "tensorflow",
        "torch",
        "tensorflow_datasets",
        "grain",
        "sklearn",
        "matplotlib",
        "wandb",
        "orbax",
        "ml_collections.config_flags",
    }
    assert not loaded_by(f"import {module}") & heavy


def test_the_step_works_where_the_data_packages_are_not_installed():
    """As on a machine that only has jax, flax, optax and einops."""
    absent = ("tensorflow_datasets", "grain", "tensorflow", "ml_collections", "tokenizers", "sklearn")
    block = f"import sys; sys.modules |= dict.fromkeys({absent})"
    assert "mmjax" in loaded_by(f"{block}; import mmjax.models.aligner, mmjax.objectives.contrastive, mmjax.train.step, mmjax.train.loop")


def test_looking_at_data_imports_nothing_of_training():
    loaded = loaded_by("import mmjax.data.inspect, mmjax.report.inspection")
    assert "mmjax" in loaded and not loaded & {"flax", "optax", "orbax", "grain", "tensorflow_datasets", "matplotlib", "scipy"}
