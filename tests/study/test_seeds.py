"""Means, spreads and baselines of several seeds."""

import statistics

import pytest

from mmjax.study.seeds import markdown, summary


def test_mean_sample_deviation_and_baselines():
    values = [0.3, 0.4, 0.35]
    results = [{"step": 5, "test/r@10": v, "test/r@10/chance": 0.1, "test/r@10/ridge": 0.2, "validation/r@10": 0.9} for v in values]
    (row,) = summary(results)
    assert row["name"] == "test/r@10" and row["values"] == values and row["baselines"] == pytest.approx({"chance": 0.1, "ridge": 0.2})
    assert row["mean"] == pytest.approx(statistics.mean(values)) and row["std"] == pytest.approx(statistics.stdev(values))
    table = markdown([row], [0, 1, 2])
    assert "| `test/r@10` | **0.350** ± 0.050 | 0.300 | 0.400 | 0.350 | 0.100 | 0.200 | 3.5 |" in table
