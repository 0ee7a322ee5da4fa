"""Whole runs on a toy data set: resumption, kills, signals, and everything that stops a run with one clear message."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from mmjax.config import CheckpointError, ConfigError, DataError
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.logging import TrainingError
from mmjax.train.loop import train
from toy import Toy, toy_config

ROOT = Path(__file__).parents[2]
RUN = """
import json, sys
sys.path.insert(0, "tests")
import conftest
from toy import Toy, toy_config
from mmjax.config import UserError
from mmjax.train.loop import train
try:
    train(toy_config(**json.loads(sys.argv[2])), sys.argv[1])
except UserError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def spawn(workdir, devices=8, **changes):
    """The same run in a process of its own, that can be killed."""
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [
        sys.executable,
        "-c",
        RUN.replace("import conftest", "import conftest" if devices == 8 else ""),
        str(workdir),
        json.dumps(changes),
    ]
    return subprocess.Popen(
        command, cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_step(workdir, step, process):
    """Until the run has logged `step`."""
    for _ in range(1_200):
        path = workdir / "metrics.jsonl"
        if path.exists() and any(f'"step": {step},' in line for line in path.read_text().splitlines()):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("the run got nowhere")


def last_parameters(workdir):
    """Every array of the newest checkpoint, read without mmjax."""
    import orbax.checkpoint as ocp

    folder = workdir / "checkpoints" / f"step_{Checkpoints(workdir / 'checkpoints', read_only=True).latest}"
    state = [
        ocp.StandardCheckpointer().restore((folder / item).absolute()) for item in ("params", "opt", "fitted") if (folder / item).exists()
    ]
    return [np.asarray(x) for x in jax.tree.leaves(state)]


QUIET = {
    "evals": {},
    "steps": 40,
    "checkpoint": {"every": 5, "best": None},
    "data__batch_pp": {"image": "normalise"},
    "data__modality_dropout": 0.1,
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "whole"
    train(toy_config(**QUIET), workdir)
    return workdir


@pytest.mark.parametrize("how", ["kill -9", "SIGTERM"])
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(how, uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    process = spawn(workdir, **QUIET)
    wait_for_step(workdir, 12, process)  # by now the first checkpoint is whole
    process.send_signal(signal.SIGKILL if how == "kill -9" else signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    saved = Checkpoints(workdir / "checkpoints", read_only=True).latest
    assert saved is not None and saved < 40
    if how == "SIGTERM":
        assert "Interrupted: Stopped by SIGTERM" in output and "Traceback" not in output, output
    train(toy_config(**QUIET), workdir)
    for a, b in zip(last_parameters(workdir), last_parameters(uninterrupted), strict=True):
        np.testing.assert_array_equal(a, b)
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 40 and set(steps) >= set(range(saved + 1, 41))


def test_a_run_goes_on_with_another_number_of_devices(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    # Adam would blow up the rounding of gradients that are zero but for it, such as a key bias's.
    changes = {**QUIET, "optimizer__schedule": "constant", "optimizer__name": "sgd", "optimizer__lr": 0.1}
    first = spawn(workdir, devices=2, **{**changes, "steps": 4})
    assert first.wait(120) == 0, first.communicate()[0]
    results = train(toy_config(**{**changes, "steps": 8}), workdir)
    assert results["step"] == 8
    whole = tmp_path / "whole"
    train(toy_config(**{**changes, "steps": 8}), whole)
    for a, b in zip(last_parameters(workdir), last_parameters(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


def test_a_whole_run_leaves_what_it_promises(tmp_path, capsys):
    workdir = tmp_path / "run"
    config = toy_config(steps=60, optimizer__lr=3e-3, checkpoint__best="validation/retrieval/text_to_image/r@5", log__tensorboard=True)
    config["evals"]["retrieval"] |= {
        "every": 20,
        "baseline": "ridge",
        "variants": {"en": {"text": 'choose("en")|tokens(40)'}, "xx": {"text": 'choose("xx")|tokens(40)'}},
    }
    config["data"]["cache"] = True
    results = train(config, workdir)
    assert json.loads((workdir / "results.json").read_text()) == results
    for direction in ("text_to_image", "image_to_text"):
        for name in ("r@1", "r@5", "r@10", "median_rank"):
            for baseline in ("", "/chance", "/ridge"):
                assert 0 <= results[f"test/retrieval/{direction}/{name}{baseline}"] <= 20
    assert "test/retrieval/xx/text_to_image/r@10" in results and results["data/train/unreadable"] == 0
    assert results["test/loss/total"] > 0 and results["test/loss/total/chance"] == pytest.approx(
        np.log(16) * 16 / 20 + np.log(4) * 4 / 20, rel=1e-4
    )
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 60 and np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5]), "it learns"
    assert {line["step"] for line in lines if "validation/retrieval/text_to_image/r@1" in line} == {20, 40, 60}
    assert all(0 <= line["train/wait_share"] <= 1 for line in lines if "train/wait_share" in line)
    assert json.loads((workdir / "environment.json").read_text())["versions"]["jax"] == jax.__version__
    assert list((workdir / "tensorboard").iterdir())
    names = {str(p.relative_to(workdir / "artifacts")) for p in (workdir / "artifacts").rglob("*.json")}
    assert {"data/attribution.json", "test/retrieval/gallery_text_to_image.json", "test/retrieval/similarity.json"} <= names
    assert "60 of 60" in capsys.readouterr().err

    again = train(config, workdir)
    assert again["step"] == results["step"] and again["test/retrieval/text_to_image/r@5"] == results["test/retrieval/text_to_image/r@5"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer__lrr": 1.0}, "optimizer.lrr is unknown. Did you mean 'lr'"),
        ({"stepz": 1}, "config.stepz is unknown. Did you mean 'steps'"),
        ({"steps": 0}, "config.steps=0"),
        ({"data__bach_size": 8}, "data.bach_size is unknown. Did you mean 'batch_size'"),
        ({"data__source__name": "openmojy"}, "Did you mean 'openmoji'"),
        ({"data__source__name": "toy:Toi"}, "toy has no 'Toi'. Did you mean 'Toy'"),
        ({"data__source__sizes": 3}, "data.source.sizes is unknown. Did you mean 'size'"),
        ({"data__pp__image": "decode|resise(8)"}, "Did you mean 'resize'"),
        ({"data__tokenizer": {"name": "bpf"}}, "Did you mean 'bpe'"),
        ({"model__name": "alligner"}, "Did you mean 'aligner'"),
        ({"model__encoders__image__name": "vjt"}, "model.encoders.image.name: 'vjt' is not among the encoders. Did you mean 'vit'"),
        ({"model__encoders__text__hads": 2}, "model.encoders.text.hads is unknown. Did you mean 'heads'"),
        ({"objectives__contrastive__los": "x"}, "objectives.contrastive.los is unknown. Did you mean 'loss'"),
        ({"objectives": {}}, "at least one objective"),
        ({"evals__retrieval__evry": 3}, "evals.retrieval.evry is unknown. Did you mean 'every'"),
        ({"evals__retrieval__name": "retreival"}, "Did you mean 'retrieval'"),
        ({"checkpoint__kep": 1}, "checkpoint.kep is unknown. Did you mean 'keep'"),
        ({"log__evry": 1}, "log.evry is unknown. Did you mean 'every'"),
        ({"mesh__dta": 1}, "mesh.dta is unknown. Did you mean 'data'"),
        ({"optimizer__accumulate": 2}, "another loss"),
        ({"log__wandb": "project"}, "needs the package wandb: pip install wandb"),
        ({"log__profile": [5]}, "the first and the last step to trace"),
        ({"seed": -1}, "config.seed=-1"),
        ({"checkpoint__every": 0}, "checkpoint.every=0"),
        ({"evals__loss__every": 0}, "evals.loss.every=0"),
    ],
)
def test_a_config_that_cannot_run_is_refused_before_data_is_read(change, message, tmp_path, monkeypatch):
    monkeypatch.setattr("mmjax.data.loader.Data.source", lambda *a: pytest.fail("data was read"))
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        train(toy_config(**change), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing is left behind"


def test_pairs_the_model_does_not_embed_and_metrics_nobody_measures(tmp_path):
    with pytest.raises(ConfigError, match="pairs name 'audio'.*It embeds: image, text"):
        train(toy_config(objectives__contrastive__pairs=[["image", "audio"]]), tmp_path / "a")
    with pytest.raises(
        ConfigError, match="measured by none of config.evals: it should begin with validation/retrieval/ or validation/loss/"
    ):
        train(toy_config(checkpoint__best="test/retrieval/text_to_image/r@1"), tmp_path / "b")
    with pytest.raises(ConfigError, match="is not measured. Did you mean 'validation/retrieval/text_to_image/r@10'"):
        train(toy_config(checkpoint__best="validation/retrieval/text_to_image/r@20", checkpoint__every=3), tmp_path / "c")


def test_a_folder_with_another_run_or_something_else_in_it_is_refused(uninterrupted, tmp_path):
    with pytest.raises(ConfigError, match=r"holds the run of another config: optimizer.lr was 0.01 and is 0.02"):
        train(toy_config(**QUIET, optimizer__lr=0.02), uninterrupted)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        train(toy_config(), tmp_path)


def test_other_data_than_the_run_began_with_is_refused(tmp_path):
    shutil.copytree(ROOT / "tests" / "data" / "files", tmp_path / "photos")
    table = tmp_path / "photos" / "captions.csv"
    source = {"name": "files", "path": str(table), "streams": {"image": "file", "text": "caption"}}
    changes = {"evals": {}, "data__source": source, "data__pp": {"image": "decode|resize(8)", "text": "tokens(40)"}}
    train(toy_config(steps=2, **changes), tmp_path / "run")
    table.write_text(table.read_text() + "bricks.jpg,another caption\n")
    message = r"data is not what the run in .*/run began with: it was 'captions.csv, 24 rows, \w+; .* and is 'captions.csv, 25 rows, "
    with pytest.raises(CheckpointError, match=message):
        train(toy_config(steps=4, **changes), tmp_path / "run")


def test_mistakes_in_the_data_leave_no_folder_that_would_refuse_the_mended_command(tmp_path):
    source = {"name": "files", "path": "tests/data/nowhere.csv", "streams": {"image": "file", "text": "caption"}}
    with pytest.raises(DataError, match=r"There is no file tests/data/nowhere\.csv"):
        train(toy_config(data__source=source), tmp_path / "run")
    with pytest.raises(DataError, match="fewer than data.batch_size=72"):
        train(toy_config(data__batch_size=72), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_second_process_in_the_same_folder_is_refused(tmp_path):
    workdir = tmp_path / "run"
    process = spawn(workdir, **{**QUIET, "steps": 100_000})
    try:
        wait_for_step(workdir, 2, process)
        with pytest.raises(CheckpointError, match="Another process is training"):
            train(toy_config(**{**QUIET, "steps": 100_000}), workdir)
    finally:
        process.kill()
        process.communicate()


def test_a_loss_that_is_not_finite_stops_the_run_and_spoils_no_checkpoint(tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"The (loss|gradient's norm) is (nan|inf) at step \d+") as error:
        train(toy_config(steps=60, evals={}, optimizer__lr=1e36, optimizer__warmup=20, optimizer__name="sgd", checkpoint__every=1), workdir)
    step = int(str(error.value).partition("at step ")[2].split(",")[0])
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    assert checkpoints.latest == step - 1


def test_unreadable_items_are_left_out_and_counted(tmp_path, caplog):
    source = {"name": "toy:Toy", "broken": [3], "empty": [7, 11]}
    results = train(toy_config(data__source=source, data__max_unreadable=0.2), tmp_path / "run")
    assert results["data/train/unreadable"] == results["data/test/unreadable"] == 3
    assert "Item 3 of the train split is unreadable" in caplog.text and "the text is empty" in caplog.text
    with pytest.raises(DataError, match=r"items of the \w+ split are unreadable.*raise data.max_unreadable.$"):
        train(toy_config(data__source=source), tmp_path / "again")


def test_the_profiler_leaves_a_trace_also_of_a_run_that_ends_inside_it(tmp_path):
    train(toy_config(evals={}, steps=4, log__profile=[2, 9]), tmp_path / "run")
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    train(toy_config(evals={}, steps=6, log__profile=[2, 5]), tmp_path / "run")  # resumed behind the first step to trace


def test_more_tokens_than_embeddings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="vocab=100 is smaller than the tokenizer's 259 tokens. .* public weights, take their tokenizer"):
        train(toy_config(model__encoders__text__vocab=100), tmp_path / "run")


def test_an_evaluator_for_the_end_alone(tmp_path):
    config = toy_config(steps=2, evals={"loss": {"name": "loss", "split": None, "final": "test"}})
    results = train(config, tmp_path / "run")
    assert "test/loss/total" in results and "validation/loss/total" not in results
    with closing(Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)) as checkpoints:
        noted = checkpoints.meta(checkpoints.latest)["time/train_s"]
    assert train(config, tmp_path / "run")["time/train_s"] > noted > 0, "the time before a resumption counts"


class Bare(Toy):
    """Every fourth example has nothing at all, not even one of its streams."""

    def __getitem__(self, index):
        return {"key": index} if index % 4 == 0 else super().__getitem__(index)


def test_examples_without_any_stream_count_in_nothing(tmp_path):
    """The loss and the parameters stay finite, and evaluation asks for three quarters of the split."""
    results = train(toy_config(data__source={"name": "test_loop:Bare"}, steps=3, checkpoint__every=3), tmp_path / "run")
    assert all(np.isfinite(value) for name, value in results.items() if isinstance(value, float))
    assert all(np.isfinite(array).all() for array in last_parameters(tmp_path / "run"))
    assert results["test/retrieval/text_to_image/r@1/chance"] == pytest.approx(1 / 15)
