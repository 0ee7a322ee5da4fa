"""Evaluators in a run: on data of their own, with the run's tokenizer; and what is misspelt shows before training."""

import pytest

from mmjax.config import ConfigError, DataError
from mmjax.contract import Table, load_artifact
from mmjax.train.build import parts_of
from mmjax.train.evaluation import check_evaluators, evaluate_run
from mmjax.train.loop import train
from toy import toy_config

LABELLED = {"source": {"name": "toy:Labelled"}}
DIGITS = {"source": {"name": "digits"}, "pp": {"image": "decode|resize(8)"}}


def test_a_run_with_classifiers_on_its_own_and_on_other_data(tmp_path):
    evals = {
        "zeroshot": {"name": "zeroshot", "every": 1, "templates": ["bright {}", "{}"]},
        "knn": {"name": "knn", "k": [1, 5], "limit": 32, "split": None, "data": DIGITS},
    }
    best = "validation/zeroshot/top1"
    config = toy_config(steps=2, evals=evals, checkpoint__best=best, data__source={"name": "toy:Labelled"})
    config["data"]["batch_pp"] = {"image": "normalise"}  # fitted once, and read from the checkpoint after that
    results = train(config, tmp_path / "run")
    for name in ("zeroshot/top1", "knn/top1", "knn/top5", "knn/balanced_accuracy"):
        for level in ("", "/chance", "/majority"):
            assert 0 <= results[f"test/{name}{level}"] <= 1
    assert results["test/knn/top1/chance"] == pytest.approx(0.1) and results["test/zeroshot/top1/chance"] == pytest.approx(1 / 3)
    assert results["test/knn/top1/hog"] > 0.3 and results["data/knn/test/unreadable"] == 0
    assert "validation/knn/top1" not in results and "validation/zeroshot/top1" in results
    attribution = load_artifact(tmp_path / "run" / "artifacts" / "data" / "knn_attribution.json")
    assert isinstance(attribution, Table) and "Alpaydin" in attribution.rows[0][0]
    again = evaluate_run(tmp_path / "run")
    assert {k: v for k, v in again.items() if k.startswith("test/")} == {k: v for k, v in results.items() if k.startswith("test/")}


def test_other_data_share_the_runs_tokenizer_batch_size_and_operations(tmp_path):
    tokenizer = {"name": "bpe", "vocab": 270}
    evals = {"zeroshot": {"name": "zeroshot", "data": {**LABELLED, "pp": {"label": "index()"}}}}
    for workdir in (None, tmp_path):
        parts = parts_of(toy_config(data__tokenizer=tokenizer, evals=evals), workdir)
        other = parts.evals["zeroshot"][1]["data"]
        assert other.tokenizer is parts.data.tokenizer and other.batch_size == 16 and other.seed == parts.data.seed
        assert set(other.pp) == {"image", "text", "label"} and other.pp["text"] == parts.data.pp["text"]
    assert (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"data": {"sorce": {}}}, "evals.x.data.sorce is unknown. Did you mean 'source'"),
        ({"data": {}}, "evals.x.data.source is missing"),
        ({"data": "digits"}, "evals.x.data='digits' should be a mapping"),
        ({"data": {"source": {"name": "digit"}}}, "evals.x.data.source.name: 'digit' is not among the data.sources. Did you mean 'digits'"),
        ({"data": {**DIGITS, "pp": {"image": "decode|resise(8)"}}}, "evals.x.data.pp.image: 'resise' is no operation"),
        ({"data": {**DIGITS, "pp": {"lable": "index()"}}}, "evals.x.data.pp.lable: a stream is named by its kind"),
        ({"spilt": "test"}, "evals.x.spilt is unknown. Did you mean 'split'"),
    ],
)
def test_what_is_wrong_in_the_config_is_said_before_data_is_read(node, message, monkeypatch):
    monkeypatch.setattr("mmjax.data.loader.Data.source", lambda *a: pytest.fail("data was read"))
    with pytest.raises(ConfigError, match=message):
        parts_of(toy_config(evals={"x": {"name": "zeroshot", **node}}))


@pytest.mark.parametrize(
    ("node", "error", "message"),
    [
        (
            {"split": "validaton", "data": DIGITS},
            ConfigError,
            "evals.x: Digits has no split 'validaton': take one of train, validation, test",
        ),
        ({"final": "tets", "data": DIGITS}, ConfigError, "evals.x: Digits has no split 'tets'"),
        ({"label": "label_colour"}, ConfigError, "evals.x: The source has no names for the classes of 'label_colour'"),
        ({"names": ["a"] * 3}, ConfigError, "evals.x: data.pp.label: no example of the validation split has it"),
        ({"stream": "audio", "data": DIGITS}, ConfigError, "evals.x: evals.x.data.pp does not read 'audio'"),
        (
            {"data": {"source": {"name": "toy:Labelled", "names": ["a", "b"]}}},
            DataError,
            "evals.x: Item . of the validation split: The label 2",
        ),
    ],
)
def test_what_only_the_source_knows_is_said_before_training(node, error, message):
    parts = parts_of(toy_config(evals={"x": {"name": "zeroshot", **node}}))
    with pytest.raises(error, match=message):
        check_evaluators(parts)
