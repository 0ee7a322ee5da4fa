"""From a search to the config of what it found, and its training."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def script(name, *arguments):
    command = [sys.executable, str(ROOT / "experiments" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_what_a_search_found_is_a_config_that_trains(tmp_path):
    search, found, out = tmp_path / "search", tmp_path / "found", tmp_path / "found.py"
    done = script("train.py", "--config", "configs/fuse_watch.py:smoke,fusion=search", "--workdir", search)
    assert done.returncode == 0, done.stderr[-2000:]
    done = script("architecture.py", "--workdir", search, "--out", out)
    assert done.returncode == 0 and "--config.model.fusion.architecture=" in done.stdout, done.stderr[-2000:]
    done = script("train.py", "--config", out, "--workdir", found, "--config.steps=2")
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads((run / "results.json").read_text()) for run in (search, found)]
    assert results[1]["parameters"] < results[0]["parameters"]
    done = script("architecture.py", "--workdir", found)
    assert done.returncode == 2 and "did not search" in done.stderr
