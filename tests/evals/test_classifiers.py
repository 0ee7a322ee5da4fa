"""Zero-shot, linear probe, nearest neighbours and few-shot against scikit-learn and sums by hand, on made-up embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from test_retrieval import spoken, swings

import toy
from mmjax.config import ConfigError, DataError
from mmjax.contract import Bars, Matrix, State, Table
from mmjax.data.loader import Data
from mmjax.data.pp.audio import Waveform
from mmjax.data.split import SplitView
from mmjax.evals._features import operations
from mmjax.evals._ridge import audio_features
from mmjax.evals.fewshot import Fewshot, drawn_shots
from mmjax.evals.knn import KNN
from mmjax.evals.linear_probe import LinearProbe, search
from mmjax.evals.zeroshot import Zeroshot, published, readable
from mmjax.train.sharding import make_mesh
from toy import toy_config

STATE = State(jnp.int32(0), {}, {}, {}, {}, (), {}, jax.random.key(0))  # what is made up looks at none of it
NAMES = ("ant", "bee", "cow", "doe", "elk", "fox", "gnu")
RNG = np.random.default_rng(0)
LABELS = {split: [int(i) for i in RNG.integers(0, 7, n)] for split, n in {"train": 90, "validation": 40, "test": 50}.items()}
KEYS = {split: 1_000 * i + np.arange(len(LABELS[split])) for i, split in enumerate(LABELS)}
FEATURES = np.zeros((3_000, 8), np.float32)  # by key
for _split in LABELS:
    FEATURES[KEYS[_split]] = np.eye(8)[LABELS[_split]] + RNG.normal(size=(len(LABELS[_split]), 8)) * 0.45 + 0.3


def view(labels=LABELS, split="test", names=NAMES, **changes):
    source = {"name": "toy:Labelled", "labels": labels, "names": list(names), **changes.pop("source", {})}
    return SplitView(Data(**toy_config(data__source=source, data__max_unreadable=0.5, **changes)["data"]), make_mesh(), split)


class Made:
    """Stands in for the model: features by key, and `texts` for prompts, which are read from their tokens."""

    def __init__(self, seen=None, texts=None):
        self.seen, self.texts, self.prompts = seen, texts or {}, []
        self.replicated = lambda x: x

    def outputs(self, state, batch, names):
        stream = names[0].split("/")[0]
        if "image/tokens" in names:  # the features between others that are not valid
            x = FEATURES[np.asarray(batch["image/key"])]
            tokens = np.stack([np.full_like(x, np.nan), x - 1, x + 1], axis=1)
            return {"image/tokens": jnp.asarray(tokens), "image/valid": jnp.broadcast_to(jnp.array([False, True, True]), tokens.shape[:2])}
        if stream == "image":
            return {names[0]: jnp.asarray(FEATURES[np.asarray(batch["image/key"])])}
        texts = [self.seen.data.tokenizer.decode(ids) for ids in np.asarray(batch["text"])]
        self.prompts += [t for t in texts if t]
        zero = np.zeros(8, np.float32)
        return {names[0]: jnp.asarray(np.stack([self.texts.get(t, zero) for t in texts]))}


def run(evaluator, seen=None, details=False, fns=None):
    return dict(evaluator.run(fns or Made(), STATE, seen or view(), step=0, details=details))


def known(*splits):
    return np.concatenate([FEATURES[KEYS[s]] for s in splits]), np.concatenate([LABELS[s] for s in splits])


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_statistics_of_series_stand_beside():
    """On made-up features that tell nothing the statistics do."""

    class Blind(Made):
        def outputs(self, state, batch, names):
            return {names[0]: jnp.asarray(np.random.default_rng(0).normal(size=(batch["series_a"].shape[0], 4)).astype(np.float32))}

    seen = swings("test")
    found = run(LinearProbe(stream="series_a", l2=0.1), seen, details=True, fns=Blind())
    assert found["top1/statistics"] > 0.9 > found["top1"]
    assert [row[:2] for row in found["features"].rows] == [["series_a/pooled", 4], ["statistics", 20]]
    without = run(LinearProbe(stream="series_a", l2=0.1, baseline=None), seen, details=True, fns=Blind())
    assert not any("statistics" in name for name in without)


def tone(split, index):
    """Half of the clips are low, half high, of any loudness and length."""
    rng = np.random.default_rng((index, len(split)))
    samples = np.sin(np.arange(rng.integers(2_000, 6_000)) * (0.2 if index % 2 else 1.2)) * rng.uniform(0.1, 0.9)
    return Waveform(samples.astype(np.float32), 8_000)


def test_the_spectrum_of_clips_stands_beside(monkeypatch):
    monkeypatch.setattr(toy.Spoken, "__getitem__", lambda self, i: {"audio": tone(self.split, i), "label": i % 2, "key": i})
    monkeypatch.setattr(toy.Spoken, "__len__", lambda self: 30)
    data = toy_config(data__source={"name": "toy:Spoken"}, data__pp={"audio": "decode(8_000)|crop_or_pad(0.5)"})["data"]
    fns = Made()
    fns.outputs = lambda state, batch, names: {names[0]: jnp.ones((batch["audio"].shape[0], 4), jnp.float32)}
    found = run(LinearProbe(stream="audio", l2=0.1), SplitView(Data(**data), make_mesh(), "test"), details=True, fns=fns)
    assert found["top1/log_mel"] == 1 > found["top1"] and found["features"].rows[1][:2] == ["log_mel", 80]


def test_audio_features_are_those_of_each_clip_alone():
    clips = [tone("test", i) for i in range(3)]
    together, alone = audio_features(clips), np.concatenate([audio_features([clip]) for clip in clips])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    assert np.isfinite(together).all() and together.shape == (3, 80)


def test_zeroshot_of_sounds_which_half_of_the_examples_have():
    seen = spoken(text="choose|tokens(40)")
    axes = np.eye(8, dtype=np.float32)
    words = {t.format(c): axes[i] for i, c in enumerate(toy.Spoken.classes["label"]) for t in ("{}", "hear {}")}

    class Heard(Made):
        def outputs(self, state, batch, names):
            if names[0] == "text/z":
                return super().outputs(state, batch, names)
            return {names[0]: jnp.asarray(axes[(np.asarray(batch[names[0].replace("/z", "/key")]) - 500) % 3])}

    found = run(Zeroshot(stream="audio_sound", templates=("{}", "hear {}")), seen, details=True, fns=Heard(seen, words))
    assert found["top1"] == 1 and sum(row[1] for row in found["classes"].rows) == 6
    asked = Heard(seen)
    run(Zeroshot(stream="audio_speech"), seen, fns=asked)
    assert "the sound of animal." in asked.prompts, "templates for audio"


def test_linear_probe_is_scikit_learns_logistic_regression():
    found = run(LinearProbe(l2=0.1))
    model = LogisticRegression(C=10.0, max_iter=1_000).fit(*known("train", "validation"))
    assert found["top1"] == pytest.approx(model.score(*known("test"))) and found["top1"] > found["top1/majority"] > 0
    assert found["top1/chance"] == pytest.approx(1 / 7) and found["top5/chance"] == pytest.approx(5 / 7)
    most = np.bincount(known("train", "validation")[1]).argmax()
    assert found["top1/majority"] == np.mean(np.array(LABELS["test"]) == most)


def test_linear_probe_of_two_classes():
    found = run(LinearProbe(l2=0.1), view({s: [y % 2 for y in LABELS[s]] for s in LABELS}, names=("even", "odd")))
    x, y = known("train", "validation")
    model = LogisticRegression(C=10.0, max_iter=1_000).fit(x, y % 2)
    assert found["top1"] == pytest.approx(model.score(known("test")[0], known("test")[1] % 2)) and "top5" not in found


def test_the_penalty_is_the_best_of_the_validation_split_and_never_of_the_split_that_is_measured():
    scores = {}

    def score(l2):
        scores[l2] = -abs(np.log10(l2) - 1.3)
        return scores[l2]

    assert search(score) == pytest.approx(10**1.25) and len(scores) == 15
    assert search(lambda l2: 0.0) == 1e6, "the stronger of equals"
    probe, chosen = LinearProbe(baseline=None), {}
    for split in ("validation", "test"):
        table = run(probe, view(split=split), details=True)["features"]
        assert isinstance(table, Table)
        chosen[split] = table.rows[0]
    assert chosen["test"][2] == 90 + 40 and chosen["validation"][2] == 90, "from a fifth of the training examples"
    l2 = float(chosen["test"][3].removeprefix("L2 "))
    accuracy = {e: LogisticRegression(C=10.0**-e, max_iter=1_000).fit(*known("train")).score(*known("validation")) for e in (-4, 0, 2, 4)}
    ours = LogisticRegression(C=1 / l2, max_iter=1_000).fit(*known("train")).score(*known("validation"))
    assert ours >= max(accuracy.values())


def test_knn_is_scikit_learns():
    found = run(KNN(k=(7,), temperature=0.1))
    x, y = known("train", "validation")
    model = KNeighborsClassifier(7, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.1)).fit(x, y)
    assert found["top1"] == pytest.approx(model.score(*known("test")))
    best = run(KNN(k=(1, 3, 9, 500)), details=True)["features"].rows[0][3]
    accuracy = {
        k: KNeighborsClassifier(min(k, 90), metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
        .fit(*known("train"))
        .score(*known("validation"))
        for k in (1, 3, 9, 500)
    }
    assert best == f"k {max(accuracy, key=accuracy.get)}", "more neighbours than examples are all of them"


def test_fewshot_is_the_nearest_mean_over_seeds():
    found = run(Fewshot(shots=(2, 1_000), seeds=3), details=True)
    x, y = known("train")
    middle = x.mean(0)
    asked, labels = unit(known("test")[0] - middle), known("test")[1]
    # The probe holds out a fifth of the training examples, and takes it back: the order is its own.
    fifth = np.random.default_rng(0).permutation(90) % 5 == 0
    x, y = np.concatenate([x[~fifth], x[fifth]]), np.concatenate([y[~fifth], y[fifth]])
    x = unit(x - middle)
    by_hand = []
    for seed in range(3):
        rows = drawn_shots(y, 2, seed)
        assert (np.bincount(y[rows], minlength=7) == np.minimum(np.bincount(y), 2)).all()
        by_hand.append(NearestCentroid().fit(x[rows], y[rows]).score(asked, labels))
    assert found["2_shot/top1"] == pytest.approx(np.mean(by_hand)) and found["2_shot/top1/std"] == pytest.approx(np.std(by_hand, ddof=1))
    whole = NearestCentroid().fit(x, y).score(asked, labels)
    assert found["1000_shot/top1"] == pytest.approx(whole) and found["1000_shot/top1/std"] == pytest.approx(0)
    assert found["2_shot/top1/chance"] == pytest.approx(1 / 7) and 0 <= found["2_shot/top1/hog"] <= 1 and "2_shot/top1/std/hog" not in found
    bars = found["by_shots"]
    assert isinstance(bars, Bars) and bars.labels == ["2", "1000"] and bars.series["top1"][1] == pytest.approx(whole)


def test_simple_features_stand_beside_with_details():
    """Toy images are of one colour, the label by default the brightest: what histograms and colours can tell."""
    seen = view(labels=None, names=("red", "green", "blue"))
    found = run(LinearProbe(l2=1.0), seen, details=True)
    assert found["top1/hog"] > 0.6 > found["top1"], "which is made of features of other labels"
    assert [row[0] for row in found["features"].rows] == ["image/pooled", "hog"]
    assert "top1/hog" not in run(LinearProbe(l2=1.0), seen) and "top1/hog" not in run(
        LinearProbe(l2=1.0, baseline=None), seen, details=True
    )


def zeroshot_fns(seen, templates):
    """Two templates pull a class's prompts to both sides of its own direction."""
    pull = np.eye(8, dtype=np.float32)[7]
    return Made(
        seen,
        {
            t.format(n): unit((np.eye(8, dtype=np.float32)[i] + s * pull)[None])[0]
            for i, n in enumerate(NAMES)
            for t, s in templates.items()
        },
    )


def test_zeroshot_takes_the_nearest_mean_of_the_prompts():
    seen, templates = view(), {"a {}": 2.0, "the {}": -2.0}
    fns = zeroshot_fns(seen, templates)
    found = run(Zeroshot(templates=list(templates)), seen, details=True, fns=fns)
    x, y = known("test")
    right = x[:, :7].argmax(axis=1) == y
    assert found["top1"] == pytest.approx(right.mean()) and found["top1"] > 0.5
    assert fns.prompts == [t.format(n) for n in NAMES for t in templates]
    assert found["balanced_accuracy"] == pytest.approx(np.mean([right[y == c].mean() for c in np.unique(y)]))
    assert found["top1/majority"] == np.bincount(y).max() / 50
    table = {row[0]: row for row in found["classes"].rows}
    assert table["cow"][1:3] == [int((y == 2).sum()), pytest.approx(right[y == 2].mean())]
    assert [r[2] for r in found["classes"].rows] == sorted(r[2] for r in found["classes"].rows)
    confusion = found["confusion_of_the_worst"]
    assert isinstance(confusion, Matrix) and confusion.rows[0] == found["classes"].rows[0][0]
    row, column = confusion.rows.index("bee"), confusion.columns.index("bee")
    assert confusion.values[row][column] == pytest.approx(right[y == 1].mean())


def test_zeroshot_by_default_and_where_the_run_has_its_own_prompt():
    seen = view()
    fns = Made(seen)
    assert run(Zeroshot(), seen, fns=fns)["top1"] == 0, "a model that embeds all prompts alike knows nothing"
    assert fns.prompts[:2] == ["ant", "a photo of a ant."]
    prompted = view(data__pp__text='choose("en")|prompt("my {}", "your {}")|lower|tokens(40)')
    fns = Made(prompted)
    run(Zeroshot(names=[n.upper() for n in NAMES]), prompted, fns=fns)
    assert fns.prompts == [f"my {n}" for n in NAMES]


def test_the_published_prompts_are_averaged_class_by_class():
    """Half of them pull a class's prompts to one side, half to the other, so that their mean is its own direction."""
    seen, templates = view(), published("templates", "imagenet")
    assert (len(set(templates)), len(set(published("templates", "imagenet_7")) & set(templates))) == (80, 7)
    assert all(t.count("{}") == 1 for t in templates)
    fns = zeroshot_fns(seen, {t: 2.0 - 4.0 * (i % 2) for i, t in enumerate(templates)})
    evaluator = Zeroshot(templates="imagenet")
    weights, _ = evaluator._weights(fns, STATE, seen, NAMES)
    wanted = np.stack([np.mean([fns.texts[t.format(n)] for t in templates], axis=0) for n in NAMES])
    np.testing.assert_allclose(weights, unit(wanted), atol=1e-6)
    assert fns.prompts == [t.format(n) for n in NAMES for t in templates]
    x, y = known("test")
    assert run(evaluator, seen, fns=fns)["top1"] == pytest.approx((x[:, :7].argmax(axis=1) == y).mean())


def test_names_that_data_sets_write_are_put_into_words():
    """Two of CLIP's names stand for two classes each."""
    clip = published("names", "imagenet")
    assert len(clip) == 1_000 and len(set(clip)) == 998 and clip[:2] == ["tench", "goldfish"] and clip[-1] == "toilet paper"
    ids = [f"n{i:08d}" for i in range(1_000)]
    assert readable(ids) == clip and readable(ids[::-1]) == clip[::-1], "not all data sets have them in their order"
    assert readable(["tench, Tinca tinca", "air_plane", "a  cat"]) == ["tench", "air plane", "a cat"]
    assert readable(["crane, a bird", "crane, a machine"]) == ["crane, a bird", "crane, a machine"]
    assert Zeroshot(names="imagenet").names == clip
    seen = view(names=(*NAMES[:6], "wilde_beest, gnu"))
    run(Zeroshot(templates=["a {}"]), seen, fns=(fns := Made(seen)))
    assert fns.prompts[-1] == "a wilde beest"


def test_prompts_that_may_have_been_cut_are_counted():
    seen = view(data__pp__text="tokens(5)")
    found = run(Zeroshot(templates=["{}", "a {}"]), seen, details=True, fns=Made(seen))
    assert "14 prompts fill all their tokens" in found["classes"].note


def test_absent_labels_and_unreadable_images_do_not_count():
    labels = {**LABELS, "test": [None, -1, "cow", *LABELS["test"][3:]]}
    found = run(
        Zeroshot(names=NAMES, templates=["{}"]), seen := view(labels, source={"broken": [4]}), True, zeroshot_fns(seen, {"{}": 0.0})
    )
    assert sum(row[1] for row in found["classes"].rows) == 47
    assert run(KNN(k=(5,)), view(labels, source={"broken": [4]}))["top1"] > 0.3


def test_a_class_without_training_examples_is_never_right():
    labels = {**LABELS, "train": [label or 1 for label in LABELS["train"]], "validation": [label or 1 for label in LABELS["validation"]]}
    labels["test"] = [0] * 50
    for evaluator in (LinearProbe(l2=1.0), KNN(), Fewshot()):
        found = run(evaluator, view(labels))
        assert {v for k, v in found.items() if k.endswith(("top1", "balanced_accuracy"))} == {0.0}


def test_tokens_are_averaged_over_the_valid_ones():
    of_tokens, pooled = (run(KNN(k=(5,), output=output)) for output in ("tokens", "pooled"))
    assert of_tokens == pooled


def test_training_examples_beyond_the_limit_are_left_out():
    table = run(KNN(limit=30, baseline=None), details=True)["features"]
    assert table.rows[0][2] == 30 + 30


@pytest.mark.parametrize(
    ("evaluator", "seen", "error", "message"),
    [
        (LinearProbe(), view({**LABELS, "train": [1] * 90}), DataError, "All examples of the train split are of one class (bee)"),
        (LinearProbe(), view({**LABELS, "train": [7] * 90}), DataError, "Item 0 of the train split: The label 7 is no class"),
        (Zeroshot(), view({**LABELS, "test": ["foks"] * 50}), DataError, "'foks' is none of the source's classes. Did you mean 'fox'"),
        (Zeroshot(), view({**LABELS, "test": [None] * 50}), ConfigError, "data.pp.label: no example of the test split has it"),
        (KNN(), view({**LABELS, "train": [None] * 90}), ConfigError, "data.pp.label: no example of the train split has it"),
        (KNN(label="lable"), view(), ConfigError, "label='lable' is no label"),
        (KNN(stream="imag"), view(), ConfigError, "does not read 'imag', which should be classified. It reads: image, text"),
        (Zeroshot(text="text_de"), view(), ConfigError, "does not read 'text_de', which should read the prompts"),
        (Zeroshot(), view(names=()), ConfigError, "no names for the classes of 'label': give them as names="),
        (Zeroshot(names=["ant", "bee"]), view(), ConfigError, "names= has 2 classes, but 'label' has 7: ant"),
        (Zeroshot(), view({s: [0] * 20 for s in LABELS}, names=("ant",)), ConfigError, "has one class only (ant)"),
        (Zeroshot(names="imagenet"), view(), ConfigError, "names= has 1000 classes, but 'label' has 7: ant"),
        (
            Zeroshot(),
            view(names=[f"n{i:08d}" for i in range(7)]),
            ConfigError,
            "called by WordNet's ids (n00000000, ...): give their names",
        ),
        (Zeroshot(names=["ant", "bee"]), view(names=()), ConfigError, "is beyond the 2 names"),
        (Zeroshot(names=["ant", *"      "]), view(), ConfigError, "is nothing after the operations of 'text'"),
    ],
)
def test_what_is_wrong_is_one_clear_message(evaluator, seen, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(").replace(")", r"\)")):
        evaluator.check(seen)
        run(evaluator, seen, fns=Made(seen))


def test_features_that_are_not_finite(monkeypatch):
    monkeypatch.setitem(globals(), "FEATURES", FEATURES * np.nan)
    with pytest.raises(DataError, match="image/pooled is not finite on the train split"):
        run(LinearProbe())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Zeroshot(templates=["a photo"]), "each with {} in the place of the class"),
        (lambda: Zeroshot(templates=[]), "each with {}"),
        (lambda: Zeroshot(templates="imagnet"), "Did you mean 'imagenet'?"),
        (lambda: Zeroshot(names="imagenet1k"), "names='imagenet1k' are none of those published. Did you mean 'imagenet'?"),
        (lambda: LinearProbe(l2=0), "l2=0 should be above 0"),
        (lambda: LinearProbe(limit=3), "limit=3 should be at least 10"),
        (lambda: KNN(baseline="ridge"), "baseline='ridge' is unknown"),
        (lambda: KNN(k=()), "should be numbers of at least 1"),
        (lambda: KNN(temperature=0), "temperature=0 above 0"),
        (lambda: Fewshot(shots=[0]), r"shots=\(0,\) and seeds=5"),
    ],
)
def test_arguments_that_cannot_be(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_is_not_one_class_of_several_is_refused():
    with pytest.raises(ConfigError, match="'tags' is no label"):
        operations(SplitView(None, None, "test"), "image", "tags")
