"""The README's commands as written, and what it says of the repository."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmjax.train.build import parts_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line.split(" #")[0].strip() for language, block in BLOCKS if not language for line in block.splitlines()]
MAKE = [c for c in COMMANDS if c.startswith("make ")]
PYTHON = [c for c in COMMANDS if c.startswith("python ") and c.endswith(("runs/x", "lr=3e-4"))]
OWN = [c for c in COMMANDS if c.startswith("python ") and c.endswith("--workdir runs/photos")]
SCRIPTS = sorted({c.split()[1] for c in COMMANDS if c.startswith("python ")})


def test_the_two_commands_are_there():
    assert COMMANDS[:2] == ["make quickstart", "make test"] and len(PYTHON) == 2 and len(SCRIPTS) >= 6


@pytest.mark.parametrize("command", MAKE)
def test_make_knows_the_target_and_what_it_would_run_exists(command):
    done = subprocess.run([*command.split("&&")[0].split(), "--dry-run"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for path in re.findall(r"(?:experiments|configs)/\w+\.py", done.stdout):
        assert (ROOT / path).exists()


def run(command, tmp_path):
    """As written, but shrunk by the config's `smoke` and in a folder of its own."""
    words = command.replace("runs/", f"{tmp_path}/").replace("configs/align_openmoji.py", "configs/align_openmoji.py:smoke").split()
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, cwd=ROOT, env={**_environment(), "XLA_FLAGS": ""})
    assert done.returncode == 0, done.stderr
    return done


def _environment():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_the_commands_below_run_one_after_another_and_again(tmp_path):
    for command in [*PYTHON, PYTHON[0]]:
        done = run(command, tmp_path)
    assert "resuming at step 4" in done.stderr, "the same line again resumes"


def test_the_commands_for_your_own_pairs_read_them(tmp_path):
    """What is not run above: the config and its arguments. A folder laid out as the README says is `tests/data/files`."""
    train, evaluate = OWN
    folder = re.search(r"--workdir (\S+)", train)
    config = re.search(r"--config (\S+?):(\S+)", train)
    assert folder and config and evaluate.endswith(f"--workdir {folder[1]}")
    spec = importlib.util.spec_from_file_location("own", ROOT / config[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parts = parts_of(module.get_config("smoke," + config[2].replace("photos/", f"{ROOT}/tests/data/files/")), tmp_path)
    parts.open_data()
    assert set(parts.data.spec) == {"image", "text"} and len(parts.data.source("train")) == 16


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_names_flags_and_configs_that_there_are(script):
    told = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, cwd=ROOT).stdout
    for command in (c for c in COMMANDS if c.startswith(f"python {script}")):
        for flag in re.findall(r" --(\w+)", command):
            assert f"--{flag}" in told or f"--[no]{flag}" in told, f"{command}: {script} has no --{flag}"
        for path in re.findall(r"configs/\w+\.py", command):
            assert (ROOT / path).exists(), command


def test_the_config_in_the_readme_is_the_config():
    path = re.search(r"<!-- (configs/\w+\.py) -->\n```python\n(.*?)```", README, re.DOTALL)
    assert path, "the README shows a config"
    assert path[2] == (ROOT / path[1]).read_text(), f"python tests/test_readme.py writes {path[1]} into the README again"


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


@pytest.mark.slow
def test_make_quickstart_as_written(tmp_path):
    """The command itself, in a clone, with nothing installed."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    done = subprocess.run(["make", "quickstart"], capture_output=True, text=True, cwd=tmp_path / "clone", timeout=1_800)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clone" / "runs" / "quickstart" / "report.html").exists() and "report.html" in done.stdout


if __name__ == "__main__":

    def whole(match):
        return f"<!-- {match[1]} -->\n```python\n{(ROOT / match[1]).read_text()}```"

    (ROOT / "README.md").write_text(re.sub(r"<!-- (configs/\w+\.py) -->(?:\n```python\n.*?```)?", whole, README, flags=re.DOTALL))
