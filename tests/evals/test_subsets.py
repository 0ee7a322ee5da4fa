"""Evaluators that look at every subset of modalities, on a model whose logits add up: numbers, gaps, what is shared, errors."""

from itertools import combinations, permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics

from mmjax.config import ConfigError, DataError
from mmjax.contract import Bars, Matrix, Reliability, State, Table, present, streams
from mmjax.data.loader import Data
from mmjax.data.split import SplitView
from mmjax.evals.calibration import Calibration
from mmjax.evals.classification import Classification
from mmjax.evals.contribution import Contribution
from mmjax.evals.missing import Missing
from mmjax.ops.calibration import summary, temperature
from mmjax.train.build import Parts
from mmjax.train.evaluation import evaluate
from mmjax.train.sharding import make_mesh
from mmjax.train.step import make_functions

STATE = State(jnp.int32(0), {"model": {}}, {}, {}, {}, (), {}, jax.random.key(0))
NAMES = ("ant", "bee", "cow")
STREAMS = ("series_a", "series_b", "series_c")
SUBSETS = [s for size in (1, 2, 3) for s in combinations(STREAMS, size)]
SIZES = {"train": 24, "validation": 20, "test": 37}


def made(split):
    """Logits by modality, which modality each row has, and labels; `a` is good on validation alone, `b` everywhere but there."""
    rng = np.random.default_rng(len(split))
    labels = rng.choice(3, SIZES[split], p=[0.3, 0.5, 0.2])
    good = {"series_a": 3.0 * (split == "validation"), "series_b": 3.0 * (split != "validation"), "series_c": 0.5}
    logits = {m: (rng.normal(size=(len(labels), 3)) + g * np.eye(3)[labels]).astype(np.float32) for m, g in good.items()}
    have = {m: rng.random(len(labels)) < 0.8 for m in STREAMS}
    for m in STREAMS:
        have[m][0], have[m][3] = False, True
    return logits, have, labels


class Gaps:
    """The row 0 has no modality, the row 1 no target."""

    def __init__(self, split, complete=True):
        self.made, self.split, self.complete = made(split), split, complete
        self.fingerprint, self.classes = f"gaps {split}", {"label": NAMES}

    def __len__(self):
        return SIZES[self.split]

    def __getitem__(self, index):
        logits, have, labels = self.made
        found = {m: logits[m][None, index] for m in STREAMS if have[m][index] and (self.complete or m != STREAMS[index % 3])}
        target = {} if index == 1 else {"label": int(labels[index]), "value": float(labels[index])}
        return {**found, **target, "key": index, "id": f"row {index}"}

    def describe(self):
        return {}


class Sum:
    """What is present, added up."""

    def init(self, key, batch):
        return {"params": {}}

    def apply(self, variables, batch, *, train):
        z = sum(jnp.where(present(batch, m)[:, None], batch[m][:, 0], 0.0) for m in streams(batch))
        return {"label/logits": z, "value/prediction": z[:, 0]}, {}


def plain():
    """An operation: as it is."""
    return lambda x: np.asarray(x, np.float32)


def data(modalities=STREAMS, **source):
    pp = dict.fromkeys(modalities, f"{__name__}.plain()")
    return Data({"name": f"{__name__}:Gaps", **source}, {**pp, "label": "index()"}, 16, cache=True)


@pytest.fixture(scope="module")
def shared():
    return data(), make_mesh(), make_functions(Sum(), {})


@pytest.fixture
def run(shared):
    of, mesh, fns = shared
    return lambda evaluator, split="test": dict(evaluator.run(fns, STATE, SplitView(of, mesh, split), step=0, details=True))


def rows(split="test", complete=False):
    """The rows that count."""
    _, have, _ = made(split)
    here = np.array([have[m] for m in STREAMS])
    return np.flatnonzero((here.all(axis=0) if complete else here.any(axis=0)) & (np.arange(SIZES[split]) != 1))


def said(subset, which, split="test"):
    """Logits of some rows given a subset, and whether they have any of it."""
    logits, have, _ = made(split)
    return sum(np.where(have[m][:, None], logits[m], 0)[which] for m in subset), np.any([have[m][which] for m in subset], axis=0)


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "any"])
def test_every_subset_over_the_same_rows(run, complete):
    found, which = run(Missing(rows="complete" if complete else "any")), rows(complete=complete)
    y, reached = made("test")[2][which], {}
    for subset in SUBSETS:
        taken, name = said(subset, which)[0].argmax(axis=1), "+".join(subset)
        reached[subset] = metrics.accuracy_score(y, taken)
        assert found[f"accuracy/{name}"] == pytest.approx(reached[subset]) and found[f"accuracy/{name}/n"] == len(which)
        assert found[f"f1_macro/{name}"] == pytest.approx(metrics.f1_score(y, taken, average="macro"))
        assert found[f"accuracy/{name}/majority"] == pytest.approx(np.mean(y == np.bincount(made("train")[2]).argmax()))
        assert found[f"accuracy/{name}/chance"] == pytest.approx(1 / 3)
    assert found["accuracy/mean"] == pytest.approx(np.mean(list(reached.values())))
    table, picture = found["subsets"], found["classes"]
    assert isinstance(table, Table) and isinstance(picture, Matrix)
    assert [row[0] for row in table.rows] == picture.rows == ["a", "b", "c", "a + b", "a + c", "b + c", "a + b + c"]
    assert f"same {len(which)} examples" in table.note and table.rows[0][-1] == pytest.approx(reached[SUBSETS[0]] - reached[STREAMS])
    recall = metrics.recall_score(y, said(SUBSETS[3], which)[0].argmax(axis=1), average=None)
    assert picture.columns == ["mean", *NAMES]
    np.testing.assert_allclose(picture.values[3], [recall.mean(), *recall])
    if not complete:
        assert found[f"accuracy/{'+'.join(STREAMS)}"] == run(Classification())["accuracy"], "all that there is"


def test_numbers_are_measured_too(run):
    found, which = run(Missing("value")), rows(complete=True)
    for subset in SUBSETS:
        error = np.abs(said(subset, which)[0][:, 0] - made("test")[2][which]).mean()
        assert found[f"mae/{'+'.join(subset)}"] == pytest.approx(error, rel=1e-5)
    assert isinstance(found["subsets"], Table) and "classes" not in found


def test_contributions_are_those_of_all_orders(run):
    found, which, prior = run(Contribution(shown=100)), rows(), np.bincount(np.delete(made("train")[2], 1)) / 23
    _, have, labels = made("test")
    y = labels[which]

    def given(subset):
        if not subset:
            return np.tile(prior, (len(which), 1))
        logits, some = said(subset, which)
        return np.where(some[:, None], softmax(logits, axis=1), prior)

    def reached(p):
        return {"accuracy": p.argmax(axis=1) == y, "probability": p[np.arange(len(y)), y]}

    orders = list(permutations(STREAMS))
    for figure in ("accuracy", "probability"):
        added = {m: np.zeros(len(y)) for m in STREAMS}
        for order in orders:
            for place, m in enumerate(order):
                before, after = (reached(given(sorted(order[:n])))[figure].astype(float) for n in (place, place + 1))
                added[m] += (after - before) / len(orders)
        for m in STREAMS:
            assert found[f"{figure}/shapley/{m}"] == pytest.approx(added[m].mean(), abs=1e-6)
        total = sum(found[f"{figure}/shapley/{m}"] for m in STREAMS)
        assert total == pytest.approx(found[figure] - found[f"{figure}/majority"])
        assert found[figure] == pytest.approx(reached(given(STREAMS))[figure].mean())
    decisions = found["decisions"]
    assert isinstance(decisions, Bars) and decisions.labels[0].startswith(f"row {which[0]}: {NAMES[y[0]]} (")
    for m, short in zip(STREAMS, "abc", strict=True):
        np.testing.assert_allclose(decisions.series[short], added[m], atol=1e-6)
        assert not np.array(decisions.series[short])[~have[m][which]].any(), "exactly 0 where the modality is absent"
    assert sum(~have[m][which].all() for m in STREAMS) == 3, "each of them is absent somewhere"
    alone = {m: given((m,)) for m in STREAMS}
    here = np.array([have[m][which] for m in STREAMS])[..., None]
    assert found["probability/best_single"] == pytest.approx(reached(alone["series_a"])["probability"].mean(), abs=1e-6)
    average = sum(p * h for p, h in zip(alone.values(), here, strict=True)) / here.sum(axis=0)
    assert found["accuracy/late_average"] == pytest.approx(reached(average)["accuracy"].mean())
    assert found["probability/late_average"] == pytest.approx(reached(average)["probability"].mean(), abs=1e-6)


def test_the_best_modality_is_chosen_on_another_split(run):
    found = run(Contribution())
    alone = {row[0]: row[1] for row in found["compared"].rows}
    assert alone["b alone"] > alone["a alone"] == alone["best single, a"] == found["accuracy/best_single"], "a is best on validation"
    assert "accuracy/best_single" not in run(Contribution(), "validation")
    assert "accuracy/best_single" not in run(Contribution(select=None))


def test_calibration_with_a_temperature_from_another_split(run):
    found, which, held = run(Calibration(bins=5)), rows(), rows("validation")
    logits, y = said(STREAMS, which)[0], made("test")[2][which]
    assert found["nll"] == pytest.approx(metrics.log_loss(y, softmax(logits, axis=1)), rel=1e-5)
    t = temperature(said(STREAMS, held, "validation")[0], made("validation")[2][held])
    assert found["scaled/temperature"] == pytest.approx(t, rel=1e-4) != pytest.approx(temperature(logits, y), rel=1e-2)
    for name, value in summary(logits / t, y, 5).items():
        assert found[f"scaled/{name}"] == pytest.approx(value, rel=1e-4)
    assert found["nll/chance"] == pytest.approx(np.log(3)) and found["brier/chance"] == pytest.approx(2 / 3)
    prior = np.bincount(np.delete(made("train")[2], 1)) / 23
    assert found["nll/majority"] == pytest.approx(-np.log(prior[y]).mean())
    diagram = found["reliability"]
    assert isinstance(diagram, Reliability) and len(diagram.bins) == 2
    for bins in diagram.bins.values():
        assert len(bins) == 5 and sum(n for _, _, n, _, _ in bins) == len(which)
        assert sum(n * right for _, _, n, _, right in bins) == pytest.approx((logits.argmax(axis=1) == y).sum())
    own = run(Calibration(), "validation")
    assert "nll" in own and not [name for name in own if "scaled" in name or name == "temperature"]
    assert len(own["reliability"].bins) == 1


def test_evaluators_share_one_program_and_run_the_model_once_a_subset(shared, monkeypatch):
    (of, mesh, _), fns = shared, make_functions(Sum(), {})
    asked, read = [], []
    eval_batches = Data.eval_batches

    def outputs(state, batch, names):
        asked.append(batch["label"].shape)
        return fns.outputs(state, batch, names)

    def batches(self, mesh, split, pp=None, **kwargs):
        read.append((split, "series_a" in pp))
        return eval_batches(self, mesh, split, pp, **kwargs)

    monkeypatch.setattr(Data, "eval_batches", batches)
    evals = {"missing": Missing(), "classification": Classification(), "contribution": Contribution(), "calibration": Calibration()}
    parts = Parts({}, of, mesh, Sum(), {}, None, {name: (evaluator, {"data": of}) for name, evaluator in evals.items()})
    for _ in range(2):
        numbers, _ = evaluate(parts, fns._replace(outputs=outputs), STATE, step=0, splits=dict.fromkeys(evals, "test"), details=True)
        assert len(asked) == 7 * 3 + (3 + 1) * 2, "every subset of test, and of validation each alone and all"
        assert [split for split, whole in read if whole].count("test") == 1 and [w for _, w in read].count(False) == 1
        asked.clear()
        read.clear()
    assert fns.outputs._cache_size() == 1, "what is present is data"
    assert numbers["test/contribution/accuracy"] == numbers["test/classification/accuracy"]


def test_one_modality_alone():
    of = data(("series_b",))
    view, fns = SplitView(of, make_mesh(), "test"), make_functions(Sum(), {})
    for evaluator in (Missing(), Contribution(), Calibration()):
        evaluator.check(view)
    missing, contribution = (dict(e.run(fns, STATE, view, step=0, details=True)) for e in (Missing(), Contribution()))
    accuracy = contribution["accuracy"]
    assert missing["accuracy/series_b"] == missing["accuracy/mean"] == contribution["accuracy/best_single"] == accuracy
    assert contribution["accuracy/shapley/series_b"] == pytest.approx(accuracy - contribution["accuracy/majority"])


class Ordered(Sum):
    """Two thresholds between three classes."""

    def apply(self, variables, batch, *, train):
        return {"label/logits": batch["series_a"][:, 0, :2]}, {}


def test_errors(shared):
    _, mesh, _ = shared
    for make, message in (
        (lambda: Missing(rows="all"), "rows='all' is unknown ..complete. or .any."),
        (lambda: Contribution("tags"), "target='tags' should be a 'label'"),
        (lambda: Calibration("value"), "target='value' should be a 'label'"),
        (lambda: Calibration(bins=0), "bins=0 should be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()
    many = SplitView(data([*STREAMS, *(f"series_{i}" for i in range(4))]), mesh, "test")
    for evaluator in (Missing(), Contribution()):
        with pytest.raises(ConfigError, match="reads 7 modalities, which have 127 subsets; at most 6 can be evaluated: series_0"):
            evaluator.check(many)
    with pytest.raises(DataError, match="no example of the test split has all of series_a, series_b, series_c. With rows='any'"):
        Missing().check(SplitView(data(complete=False), mesh, "test"))
    Missing(rows="any").check(SplitView(data(complete=False), mesh, "test"))
    for evaluator in (Calibration(), Contribution()):
        with pytest.raises(DataError, match="label/logits is 2 an example, and class 2 occurs"):
            list(evaluator.run(make_functions(Ordered(), {}), STATE, SplitView(data(), mesh, "test"), step=0, details=False))
