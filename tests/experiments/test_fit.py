"""fit.py as a user calls it, on a machine without any of the chips."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def fit(*arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "XLA_FLAGS": ""}
    command = [sys.executable, str(ROOT / "experiments" / "fit.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, cwd=ROOT)


def test_a_recipe_whose_data_are_not_there_is_answered_for(tmp_path):
    """The towers are shrunk, the batch and the mesh are a pod's."""
    small = [f"--config.model.encoders.{tower}.depth=1" for tower in ("image", "text")]
    small += ["--config.model.encoders.image.width=64", "--config.model.encoders.image.heads=1"]
    out = tmp_path / "fit.json"
    done = fit("--config", "configs/clip_vit_b32.py", "--chip", "h100", "--mesh", "data=1,fsdp=8", "--json", out, *small)
    answer = json.loads(out.read_text())
    assert done.returncode == (0 if answer["fits"] else 1), done.stderr
    assert "An estimate from shapes, nothing was compiled." in done.stdout and "8 x h100, mesh data 1, fsdp 8; batch 32,768" in done.stdout
    assert answer["how"] == "estimated" and answer["bytes"]["peak"] == sum(v for k, v in answer["bytes"].items() if k != "peak")
    embedding = 49_408 * 512 * 4 / 8  # the largest parameter, over eight chips
    assert embedding < answer["bytes"]["parameters"] < 1.5 * embedding
    assert not answer["suggestions"] or all(s["fits"] and s["flags"] for s in answer["suggestions"])


def test_what_is_wrong_is_said_in_one_line():
    wrong = {
        ("--chip", "v5x"): "ConfigError: The chip 'v5x' is unknown. Did you mean 'v5",
        ("--chip", "v6e", "--mesh", "data=24"): "ConfigError: mesh: no slice of v6e has 24 chips: let the sizes multiply to one of 1, 4, 8",
    }
    for arguments, message in wrong.items():
        done = fit("--config", "configs/clip_vit_b32.py", *arguments)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
