"""Means, spreads and baselines of several seeds."""

import statistics

import pytest

from mmjax.study.seeds import markdown, picture, summary, variants


def test_mean_sample_deviation_and_baselines():
    values = [0.3, 0.4, 0.35]
    results = [{"step": 5, "test/r@10": v, "test/r@10/chance": 0.1, "test/r@10/ridge": 0.2, "validation/r@10": 0.9} for v in values]
    (row,) = summary(results)
    assert row["name"] == "test/r@10" and row["values"] == values and row["baselines"] == pytest.approx({"chance": 0.1, "ridge": 0.2})
    assert row["mean"] == pytest.approx(statistics.mean(values)) and row["std"] == pytest.approx(statistics.stdev(values))
    table = markdown([row], [0, 1, 2])
    assert "| `test/r@10` | **0.350** ± 0.050 | 0.300 | 0.400 | 0.350 | 0.100 | 0.200 | 3.5 |" in table


def test_variants_stand_beside_each_other_and_their_baselines():
    def result(value):
        return {"test/r@10": value, "test/r@10/chance": 0.1, "test/r@10/ridge": 0.2, "time/train_s": 12.4, "parameters_trained": 1200}

    found = {"how=lit": [result(0.5), result(0.6)], "how=full": [result(0.3), result(0.3)]}
    lines = variants(found, ["test/r@10"]).splitlines()
    assert lines[2:] == [
        "| `how=lit` | **0.550** ± 0.071 | 1,200 | 12 |",
        "| `how=full` | **0.300** ± 0.000 | 1,200 | 12 |",
        "| chance | 0.100 |  |  |",
        "| ridge | 0.200 |  |  |",
    ]
    shown = picture(found, "test/r@10")
    assert shown.labels == ["how=lit", "how=full"] and shown.reference == pytest.approx(0.2) and shown.halves[1] == 0
