"""A comparison: what it is made of, that its units are made once and survive kills, and what its tables say."""

import csv
import fcntl
import io
import json
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from scipy import stats

from mmjax.config import ConfigError, DataError, changed
from mmjax.study import compare, comparison
from toy import toy_config

IDEA = """
import flax.linen as nn
import jax.numpy as jnp
from mmjax.contract import Encoding
from mmjax.ops.masks import zero_absent

class Idea(nn.Module):
    @nn.compact
    def __call__(self, encodings, *, train):
        x = sum(nn.Dense(4, name=m)(e.pooled) for m, e in zero_absent(encodings).items())
        return Encoding.from_pooled(x, jnp.stack([e.present for e in encodings.values()]).any(axis=0))

class Broken(nn.Module):
    @nn.compact
    def __call__(self, encodings, *, train):
        raise ValueError("a bug of\\nits author")
"""


def study(**changes):
    run = toy_config(steps=3, data__source={"name": "toy:Labelled"}, data__pp__label="index()", optimizer__lr=0.05)
    encoder = {"name": "subword_vectors", "width": 8, "buckets": 64}
    run["model"] = {
        "name": "fuser",
        "encoders": {"text": encoder, "text_xx": encoder},
        "fusion": {"name": "concat"},
        "heads": {"label": {"size": 3}},
    }
    run["data"]["pp"] = {"text": 'choose("en")|lower|tokens(40)', "text_xx": 'choose("xx")|lower|tokens(12)', "label": "index()"}
    run["objectives"] = {"label": {"name": "cross_entropy"}}
    run["evals"] = {"classification": {"name": "classification", "by": "key"}, "missing": {"name": "missing", "split": None}}
    del run["checkpoint"], run["log"]
    out = {"run": run, "score": "test/classification/accuracy", "select": "validation/classification/accuracy", "by": "key"}
    return {**out, "fusions": "concat", "search": (1.0, 2.0), **changes}


def test_a_method_outside_the_tree_is_compared_by_its_name_and_a_broken_one_is_reported(tmp_path, monkeypatch):
    (tmp_path / "their").mkdir()
    (tmp_path / "their" / "ideas.py").write_text(IDEA)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for name in ("a", "b"):
        plan = compare.plan(study(modalities=False), fusion="their.ideas:Idea,their.ideas:Broken", seeds=2)
        if name == "b":
            plan = plan._replace(rows=[row for row in plan.rows if row.name != "concat"])  # the tables of `a` have it
        folder, said = tmp_path / name, []
        compare.begin(folder, plan, {})
        compare.work(folder, plan, said.append)
        assert "Broken, fold 0: failed (ValueError: a bug of)" in " ".join(said)
        found.append(compare.read(folder, plan))
    (one,), (again,) = (results["Idea"] for results in found)
    timed = ("seconds", "step_seconds")
    assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in again.items() if k not in timed}  # to the last bit
    assert 0 < one["step_seconds"] < one["seconds"]
    assert set(one["search"]) == {"1", "2"} and one["search"][f"{one['lr']:g}"] == max(one["search"].values())
    assert one["runs"][0]["test/classification/accuracy"] == pytest.approx(
        np.mean([one["runs"][0][f"test/classification/accuracy/by/{k}"] for k in range(2_000, 2_020)])
    )
    c = comparison.compared(
        plan._replace(rows=compare.plan(study(modalities=False), fusion="their.ideas:Idea,their.ideas:Broken").rows), found[0]
    )
    more = comparison.more(c, found[0])
    assert "| method | text | text_xx | text+text_xx |" in more and "| method | milliseconds a step | concat = 1 |" in more
    assert "- Data: made up\n" in comparison.markdown(c)  # whatever its source says, such as that speech is synthetic
    assert {line.name for line in c.lines} == {"concat", "Idea"} and len(c.blocks) == 20
    assert "Failed: `Broken`, fold 0: ValueError: a bug of" in comparison.markdown(c)
    assert comparison.pictures(c)["missing modalities"].columns == ["text", "text_xx", "text+text_xx"]
    assert "Traceback" in found[0]["Broken"][0]["trace"]


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({"select": "test/classification/accuracy"}, {}, "no test of it"),
        ({"score": "test/clasification/accuracy"}, {}, "one of config.run.evals: classification, missing"),
        ({"search": (0.0, 1.0)}, {}, "factors on the learning rate"),
        ({"fold": []}, {}, "Did you mean 'folds'"),
        ({}, {"fusion": "concta"}, "Did you mean 'concat'"),
        ({}, {"equal": "step"}, "Did you mean 'steps'"),
        ({"run": toy_config()}, {}, "has no fusion"),
        ({"rows": [("only_text", {"seed": 1})]}, {}, "two rows would be called 'only_text'"),
    ],
)
def test_what_is_wrong_is_said_first(changes, arguments, said):
    with pytest.raises(ConfigError, match=said):
        compare.plan(study(**changes), **arguments)


def test_a_modality_alone_is_all_that_its_run_reads():
    run = study()["run"]
    run["data"] |= {"modality_dropout": {"text": 0.1, "text_xx": 0.2}, "encoded": ["text_xx"], "batch_pp": {"text_xx": "x"}}
    alone = changed(run, compare.alone(run, "text"))
    assert list(alone["model"]["encoders"]) == ["text"] and set(alone["data"]["pp"]) == {"text", "label"}
    assert alone["data"]["modality_dropout"] == {"text": 0.1} and alone["data"]["encoded"] == [] and alone["data"]["batch_pp"] == {}
    assert set(run["model"]["encoders"]) == {"text", "text_xx"}  # the original is as it was
    with pytest.raises(ConfigError, match="'steps' holds no mapping"):
        changed(run, {"steps.x": 1})


def made_up(plan, unit):
    """A result without training: by the row's name, the fold's two subjects and the seed."""
    rng = np.random.default_rng((len(unit.row.name), unit.fold))
    runs = []
    for seed in range(plan.seeds):
        scores = {str(2 * unit.fold + i): float(rng.uniform(0.4, 0.6) + 0.2 * (unit.row.name == "gated") + 0.01 * seed) for i in range(2)}
        numbers = {f"{plan.score}/by/{k}": v for k, v in scores.items()} | {f"{plan.score}/by/{k}/n": 10.0 for k in scores}
        runs.append({plan.score: float(np.mean([*scores.values()])), plan.select: 0.5 + 0.1 * (unit.row.name == "only_text"), **numbers})
    cost = {"parameters": 10.0, "step_flops": 5.0 + len(unit.row.name), "peak_bytes": 8.0 * len(unit.row.name)}
    return {"cost": cost, "step_seconds": 0.01 * len(unit.row.name), "seconds": 1.0, "steps": 3, "lr": 1.0, "search": {}, "runs": runs}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(compare, "make", made_up)
    return compare.plan(study(folds=[{"seed": k} for k in range(5)]), fusion="gated", seeds=3)


def test_work_is_shared_and_what_a_killed_process_left_is_taken_up(quick, tmp_path):
    """Two at work, and one unit is locked by a third that dies in the middle of it; locks are as between processes."""
    compare.begin(tmp_path, quick, {})
    stuck = compare.units(tmp_path, quick)[3].path

    def dies():
        stuck.parent.mkdir(parents=True, exist_ok=True)
        with open(stuck.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            time.sleep(1.0)

    said = []
    others = [threading.Thread(target=dies), threading.Thread(target=compare.work, args=(tmp_path, quick, lambda _: None))]
    for other in others:
        other.start()
    time.sleep(0.2)
    compare.work(tmp_path, quick, said.append)
    for other in others:
        other.join(30)
    results = compare.read(tmp_path, quick)
    assert set(results) == {"concat", "gated", "only_text", "only_text_xx"} and all(len(units) == 5 for units in results.values())
    before = {unit.path: unit.path.stat().st_mtime_ns for unit in compare.units(tmp_path, quick)}
    compare.work(tmp_path, quick, said.append)  # nothing is left to do
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_folder_goes_on_with_more_rows_and_refuses_other_settings(quick, tmp_path):
    compare.begin(tmp_path, quick, {})
    compare.begin(tmp_path, compare.plan(study(folds=[{"seed": k} for k in range(5)]), fusion="all", seeds=3), {})
    with pytest.raises(ConfigError, match="holds another comparison: seeds was 3 and is 4"):
        compare.begin(tmp_path, compare.plan(study(folds=[{"seed": k} for k in range(5)]), seeds=4), {})
    rows = [("slow", {"optimizer.lr": 0.01}), ("slow", {"optimizer.lr": 0.02})]
    for row, again in zip(rows, (None, "rows.slow.optimizer.lr was 0.01 and is 0.02"), strict=True):
        changed_row = compare.plan(study(folds=[{"seed": k} for k in range(5)], rows=[row]), fusion="gated", seeds=3)
        with pytest.raises(ConfigError, match=again) if again else nullcontext():
            compare.begin(tmp_path, changed_row, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(ConfigError, match="holds no comparison"):
        compare.begin(tmp_path / "other", quick, {})


def test_the_table_is_what_a_statistician_would_compute(quick, tmp_path):
    compare.begin(tmp_path, quick, {})
    compare.work(tmp_path, quick, lambda _: None)
    results = compare.read(tmp_path, quick)
    c = comparison.compared(quick, results)

    def scores(row):
        return np.array([np.mean([run[f"{quick.score}/by/{k}"] for run in results[row][k // 2]["runs"]]) for k in range(10)])

    head, *rows = csv.reader(io.StringIO(comparison.to_csv(c)))
    assert len(set(head)) == len(head)
    gated = dict(zip(head, next(row for row in rows if row[0] == "gated"), strict=True))
    low, high = stats.ttest_1samp(scores("gated"), 0).confidence_interval(0.95)
    assert [float(gated["score"]), float(gated["interval"])] == pytest.approx([(low + high) / 2, (high - low) / 2])
    cost = {row: 8 * len(row) for row in ("gated", "concat")}
    assert float(gated["memory of a step, concat = 1"]) == pytest.approx(cost["gated"] / cost["concat"])
    assert comparison.timing(results).rows[1][1:3] == pytest.approx([50.0, 5 / 6])
    p = {}
    for row in ("gated", "only_text", "only_text_xx"):
        pair = (scores(row), scores("concat"))
        p[row] = stats.permutation_test(pair, lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf).pvalue
    assert float(gated["against concat, p"]) == pytest.approx(3 * p["gated"]) and p["gated"] == min(
        p.values()
    )  # Holm's factor of the least is 3
    assert c.chosen == ["text"] * 5 and c.single == pytest.approx(dict(zip(map(str, range(10)), scores("only_text"), strict=True)))
    ranks = stats.rankdata(-np.stack([scores(line.name) for line in c.lines], axis=1), axis=1).mean(axis=0)
    assert list(c.ranks[0].values()) == pytest.approx(ranks.tolist())
    assert "With 10 blocks no p can be below 0.002" in comparison.markdown(c) and "text (5 ×)" in comparison.markdown(c)
    assert json.loads(comparison.as_json(c))["scores"]["gated"] == c.lines[0].scores


def test_a_modality_alone_is_tested_where_it_is(quick, tmp_path):
    """Subject 3 has no text: differences are over the others, ranks too; of any other method that would be an error."""
    compare.begin(tmp_path, quick, {})
    compare.work(tmp_path, quick, lambda _: None)
    results = compare.read(tmp_path, quick)

    def without(row):
        units = [
            {**u, "runs": [{k: v for k, v in run.items() if not k.startswith(f"{quick.score}/by/3")} for run in u["runs"]]}
            for u in results[row]
        ]
        return comparison.compared(quick, {**results, row: units})

    c = without("only_text")
    line = next(line for line in c.lines if line.name == "only_text")
    base = next(line for line in c.lines if line.name == "concat")
    d = [line.scores[b] - base.scores[b] for b in c.blocks if b != "3"]
    assert len(c.blocks) == 10 and len(line.scores) == 9 and c.against["concat"]["only_text"][0] == pytest.approx(np.mean(d))
    assert "of the 10, `only_text` on 9." in comparison.markdown(c) and "ranks over the 9 of all" in comparison.markdown(c)
    with pytest.raises(DataError, match="gated was tested on other blocks"):
        without("gated")


def test_unfinished_and_failed_rows_are_said(quick, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="No method is finished"):
        comparison.compared(quick, {})
    compare.begin(tmp_path, quick, {})
    compare.work(tmp_path, quick, lambda _: None)
    results = compare.read(tmp_path, quick)
    del results["gated"][2]
    results["only_text"][1] = {"row": "only_text", "fold": 1, "error": "TrainingError: not finite", "seconds": 1.0}
    text = comparison.markdown(comparison.compared(quick, results))
    assert "Not finished: `gated`" in text and "Failed: `only_text`, fold 1: TrainingError: not finite" in text and "| `gated`" not in text
