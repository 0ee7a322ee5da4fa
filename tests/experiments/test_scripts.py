"""The scripts as a user calls them: help, errors in one line, train, evaluate, several seeds."""

import json
import os
import subprocess
import sys
import time
import xml.dom.minidom
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = """
from ml_collections import ConfigDict
from toy import toy_config
from mmjax.config import parse_arg

def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0)
    return ConfigDict(toy_config(seed=arg.seed, steps=4))
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "toy_run.py"
    path.write_text(CONFIG)
    return str(path)


def script(name, *arguments, timeout=240):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "XLA_FLAGS": ""}
    command = [sys.executable, str(ROOT / "experiments" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, cwd=ROOT)


def test_benchmark_explains_itself_and_knows_its_commands():
    done = script("benchmark.py", "--help")
    assert "benchmark.py input   [--part" in done.stdout and "benchmark.py start   [" in done.stdout and "--document" in done.stdout
    for arguments, found in ((["--part", "read"], "nothing"), (["inputs"], "inputs")):
        done = script("benchmark.py", *arguments)
        assert (
            done.returncode == 2
            and f"The command should be one of train, loss, compile, loop, input, start, all, not {found}." in done.stderr
        ), done.stderr


def test_what_the_benchmark_trains_is_valid(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    import benchmark

    from mmjax.study.benchmarks import input as reading
    from mmjax.train.build import parts_of

    parts_of(reading.at_224({"name": "openmoji"}))
    quickstart = parts_of(reading.without_evaluation(benchmark._load("align_openmoji"), 100))
    assert not quickstart.evals and quickstart.config["data"] == benchmark._load("configs/align_openmoji.py")["data"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be bound to cores here")
def test_processes_of_a_comparison_have_cores_of_their_own(monkeypatch):
    """They inherit them: two were once bound to one core, and took twice as long."""
    monkeypatch.syspath_prepend(ROOT / "experiments")
    import compare

    done = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: done.append(cores))
    monkeypatch.setattr(compare.subprocess, "Popen", lambda command: done.append(command[-1]))
    compare._workers([0, 1, 2, 5], 3)
    assert done == [[1], "--process=1", [2], "--process=2", [0, 5]]
    done.clear()
    compare._workers([0, 1], 3)
    assert done == ["--process=1", "--process=2"], "fewer cores than processes: none is bound"


@pytest.mark.slow
def test_where_a_start_goes(config, tmp_path):
    """Every phase takes some time, and together they are less than the command takes."""
    document = tmp_path / "start.md"
    document.write_text("<!-- start -->\n<!-- end of start -->\n")
    begin = time.perf_counter()
    done = script("benchmark.py", "start", "--config_file", config, "--repeats", 1, "--document", document)
    passed = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in document.read_text().splitlines() if line.startswith("| ")][1:]
    seconds = {name: [float(cell.split()[0]) for cell in cells] for name, *cells in rows}
    total = seconds.pop("**all**")
    for i in (0, 1):
        assert total[i] == pytest.approx(sum(values[i] for values in seconds.values()), abs=0.1)
    assert seconds["imports"][0] > 0.2 and sum(total) < passed


@pytest.mark.parametrize("name", ["train.py", "evaluate.py", "seeds.py", "inspect_data.py"])
def test_help_explains(name):
    done = script(name, "--help")
    assert f"python experiments/{name}" in done.stdout and "--workdir" in done.stdout


def test_train_resume_evaluate(config, tmp_path):
    workdir = tmp_path / "run"
    done = script("train.py", "--config", config, "--workdir", workdir, "--config.optimizer.lr=3e-4", "--config.optimizer.b2=0.98")
    assert done.returncode == 0, done.stderr
    assert "test/retrieval/text_to_image/r@10" in done.stdout and "chance" in done.stdout and str(workdir / "report.html") in done.stdout
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["optimizer"]["lr"] == 3e-4 and stored["optimizer"]["b2"] == 0.98
    assert (workdir / "report.html").stat().st_size > 5_000

    done = script("evaluate.py", "--workdir", workdir, "--step", 2)
    assert done.returncode == 0 and "Step 2:" in done.stdout, done.stderr
    assert json.loads((workdir / "results.json").read_text())["step"] == 2
    done = script("evaluate.py", "--workdir", workdir, "--step", 3)
    assert done.returncode == 2 and "has no step 3. It has: 2, 4" in done.stderr and "Traceback" not in done.stderr

    done = script(
        "train.py", "--config", config, "--workdir", workdir, "--config.optimizer.lr=3e-4", "--config.optimizer.b2=0.98", "--config.steps=6"
    )
    assert done.returncode == 0 and "resuming at step 4" in done.stderr, done.stderr
    done = script("train.py", "--config", config, "--workdir", workdir)
    assert done.returncode == 2 and "optimizer.lr was 0.0003 and is 0.01" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.optimizer.lrr=3"], "ConfigError: optimizer.lrr is unknown. Did you mean 'lr'?"),
        (["--config.model.encoders.image.name=vitt"], "Did you mean 'vit'?"),
        (["--config.optimizer.lr=fast"], "lr"),
        (["--config.nothing.at.all=3"], "nothing"),
        (["--confg=x"], "confg"),
        (["extra"], "Unexpected argument 'extra'"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_status_2(config, tmp_path, arguments, message):
    done = script("train.py", "--config", config, "--workdir", tmp_path / "run", *arguments)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) <= 2, done.stderr
    assert not (tmp_path / "run").exists()


def test_what_is_missing_is_said(config, tmp_path):
    assert "--config and --workdir must be given" in script("train.py").stderr
    assert "holds no run" in script("evaluate.py", "--workdir", tmp_path / "nowhere").stderr
    done = script("train.py", "--config", tmp_path / "no_such_config.py", "--workdir", tmp_path / "run")
    assert done.returncode == 2 and "no_such_config.py" in done.stderr and "Traceback" not in done.stderr


def test_several_seeds_and_their_table(config, tmp_path):
    document = tmp_path / "result.md"
    document.write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n")
    done = script("seeds.py", "--config_file", config, "--seeds", 2, "--workdir", tmp_path / "seeds", "--document", document)
    assert done.returncode == 0, done.stderr
    text = document.read_text()
    results = [
        json.loads((tmp_path / "seeds" / f"seed_{s}" / "results.json").read_text())["test/retrieval/text_to_image/r@10"] for s in (0, 1)
    ]
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert f"| `test/retrieval/text_to_image/r@10` | **{sum(results) / 2:.3f}** ±" in text and "commit" in text and "× chance" in text


def test_variants_stand_in_one_table(config, tmp_path):
    """Runs that are finished are not trained again; one that cannot begin is said."""
    for name, value in {"how=lit": 0.5, "how=lora,rank=4": 0.4}.items():
        place = tmp_path / name / "seed_0"
        place.mkdir(parents=True)
        found = {"test/r@10": value, "test/r@10/chance": 0.1, "time/train_s": 3.0, "parameters_trained": 12}
        about = {"git_commit": "abc", "git_changes": False, "cpu_cores": 2, "cpu": "x", "devices": "y", "versions": {"jax": "1"}}
        (place / "results.json").write_text(json.dumps(found))
        (place / "environment.json").write_text(json.dumps(about))
    document, picture = tmp_path / "variants.md", tmp_path / "variants.svg"
    document.write_text("<!-- toy -->\n<!-- end of toy -->\n")
    more = ["--document", document, "--mark", "toy", "--picture", picture]
    given = ["--config_file", config, "--seeds=1", "--processes=2", "--workdir", tmp_path]
    done = script("seeds.py", *given, "--variants", "how=lit; how=lora,rank=4", *more)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" | ")[0] for line in document.read_text().splitlines() if line.startswith("| ")]
    assert lines == ["| variant", "| `how=lit`", "| `how=lora,rank=4`", "| chance"] and "commit: abc" in document.read_text()
    assert "how=lora,rank=4" in xml.dom.minidom.parse(str(picture)).toxml()
    done = script("seeds.py", *given, "--variants=smok")
    assert done.returncode == 2 and "Did you mean 'smoke'" in done.stdout + done.stderr


def test_data_is_inspected_before_training(config, tmp_path):
    done = script("inspect_data.py", "--config", config, "--workdir", tmp_path / "out", "--count", 2, "--draws", 1, "--limit", 30)
    assert done.returncode == 0, done.stderr
    assert "train 30 of 64 (a sample)" in done.stdout and "ok    readable: test" in done.stdout
    assert f"Page: {tmp_path / 'out' / 'inspect.html'}" in done.stdout
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["inspect.html"]
