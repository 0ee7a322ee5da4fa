"""Ranks against a slow loop, chance against a simulation, and the evaluator on embeddings made up for it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toy
from mmjax.config import ConfigError, DataError
from mmjax.contract import Bars, Gallery, Matrix, State
from mmjax.data.loader import Data
from mmjax.data.pp.builder import parse
from mmjax.data.split import SplitView
from mmjax.evals._ridge import Ridge, SeriesRidge
from mmjax.evals.loss import Loss
from mmjax.evals.retrieval import Retrieval
from mmjax.ops.retrieval import chance_summary, chance_within, ranks, summary, unit
from mmjax.train.sharding import make_mesh
from toy import toy_config

STATE = State(jnp.int32(0), {}, {}, {}, {}, (), {}, jax.random.key(0))  # what is made up looks at none of it


def slow_rank(query, key, candidates, keys):
    """Sort, walk, stop at the first right one; wrong ones first among equals."""
    order = sorted(range(len(candidates)), key=lambda j: (-float(query @ candidates[j]), keys[j] == key))
    return next((i for i, j in enumerate(order) if keys[j] == key), len(order))


def test_ranks_equal_those_of_a_slow_loop():
    rng = np.random.default_rng(0)
    queries, candidates = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (60, 40))  # many ties
    query_keys, keys = (rng.integers(0, 15, n).astype(np.int32) for n in (60, 40))
    rank, right = ranks(queries, query_keys, candidates, keys)
    assert right.tolist() == [int((keys == k).sum()) for k in query_keys]
    found = right > 0
    assert rank[found].tolist() == [slow_rank(q, k, candidates, keys) for q, k in zip(queries[found], query_keys[found], strict=True)]


def test_everything_in_one_place_scores_nothing():
    z, keys = np.ones((20, 4), np.float32), np.arange(20, dtype=np.int32)
    rank, _ = ranks(z, keys, z, keys)
    assert summary(rank, (1, 10))["r@10"] == 0
    rank, _ = ranks(z * np.nan, keys, z, keys)
    assert summary(rank, (1, 10))["r@10"] == 0, "nor does what is no number"


def test_chance_equals_a_simulation():
    rng = np.random.default_rng(0)
    right, n = np.array([1, 3, 7]), 30
    first = np.array([[np.flatnonzero(rng.permutation(n) < r)[0] for _ in range(4_000)] for r in right])
    for k in (1, 5, 10, 29, 30, 40):
        np.testing.assert_allclose(chance_within(k, right, n), (first < k).mean(axis=1), atol=0.03)
    assert chance_summary(np.array([1] * 50), 100, (10,)) == {"r@10": pytest.approx(0.1), "median_rank": 50}
    assert chance_within(5, np.array([0]), 10) == pytest.approx(0)


def view(**changes):
    config = toy_config(**changes)
    return SplitView(Data(**config["data"]), make_mesh(), "validation")


class Made:
    """Stands in for the model: the first colour channel of an image, the colour's words of a text, as unit vectors."""

    def __init__(self, right):
        self.right = right
        self.replicated = lambda x: x

    def outputs(self, state, batch, names):
        (name,) = names
        stream = name.removesuffix("/z")
        rows = batch[stream].shape[0]
        code = np.random.default_rng(7).normal(size=(10_000, 16)).astype(np.float32)
        keys = np.asarray(batch[f"{stream}/key"])
        z = code[keys % 10_000] if self.right else np.ones((rows, 16), np.float32)
        return {name: jnp.asarray(z / np.linalg.norm(z, axis=1, keepdims=True))}


def test_a_model_that_knows_everything_and_one_that_knows_nothing():
    retrieval = Retrieval(variants={"en": {"text": 'choose("en")|tokens(40)'}, "xx": {"text": 'choose("xx")|tokens(40)'}}, gallery=5)
    found = dict(retrieval.run(Made(True), STATE, view(), step=0, details=True))
    for direction in ("text_to_image", "image_to_text"):
        assert found[f"{direction}/r@1"] == 1 and found[f"{direction}/median_rank"] == 1
        assert found[f"{direction}/r@10/chance"] == pytest.approx(0.5)
    assert found["xx/text_to_image/r@10"] == found["en/text_to_image/r@10"] == 1
    gallery = found["gallery_text_to_image"]
    assert isinstance(gallery, Gallery) and len(gallery.queries) == 5
    assert all(row[0].correct and row[0].content.startswith(b"\x89PNG") and not row[1].correct for row in gallery.results)
    assert isinstance(gallery.queries[0].content, str) and "red" in gallery.queries[0].content
    assert isinstance(found["similarity"], Matrix) and found["similarity"].values[3][3] == pytest.approx(1.0)
    assert isinstance(found["by_variant_text_to_image"], Bars) and found["by_variant_text_to_image"].labels == ["en", "xx"]
    nothing = dict(Retrieval(baseline=None).run(Made(False), STATE, view(), step=0, details=True))
    assert nothing["text_to_image/r@10"] == 0


def test_the_headline_is_for_the_runs_own_texts_whatever_else_is_measured():
    class OnlyEnglish(Made):
        """Knows nothing of texts that are not a colour's words: 'item7' is shorter than any of them."""

        def outputs(self, state, batch, names):
            (found,) = super().outputs(state, batch, names).values()
            known = np.asarray(batch["text/valid"]).sum(1) > 12 if "text" in batch else np.ones(len(found), bool)
            return {names[0]: jnp.asarray(np.asarray(found) * known[:, None].astype(np.float32))}

    texts = {
        "aa": {"text": 'choose("xx")|tokens(40)'},
        "en": {"text": 'choose("en")|tokens(40)'},
    }  # sorted, the unknown comes first
    found = dict(Retrieval(variants=texts, baseline=None).run(OnlyEnglish(True), STATE, view(), step=0, details=True))
    assert found["text_to_image/r@1"] == found["en/text_to_image/r@1"] == 1 and found["aa/text_to_image/r@1"] == 0


def test_every_text_is_a_query_where_asked():
    asked = dict(Retrieval(all_items=True, baseline=None).run(Made(True), STATE, view(), step=0, details=False))
    assert asked["text_to_image/r@1"] == 1
    assert asked["image_to_text/r@1/chance"] == pytest.approx(2 / 40), "two texts an image, each right"


def test_what_cannot_be_read_is_no_query_and_no_candidate():
    source = {"name": "toy:Toy", "broken": [3], "empty": [4]}
    found = dict(
        Retrieval(baseline="ridge").run(Made(True), STATE, view(data__source=source, data__max_unreadable=0.3), step=0, details=True)
    )
    assert found["text_to_image/r@1"] == 1, "the text of the image that cannot be read has nothing to find, and does not ask"
    assert found["text_to_image/r@1/chance"] == pytest.approx(1 / 19)
    assert found["image_to_text/r@1/chance"] == pytest.approx(1 / 19), "but is there to be found"
    assert [row[1:4] for row in found["compared"].rows] == [[18, 19, 19], [18, 19, 19]]


SPOKEN = {
    "image": "decode",
    "text": "choose|tokens(12)",
    "audio_speech": "toy.take|toy.wave(16)",
    "audio_sound": "toy.wave(16)",
}


def spoken(**changes):
    return view(data__source={"name": "toy:Spoken"}, data__pp={**SPOKEN, **changes})


def test_recordings_of_an_item_are_told_apart_and_rows_without_a_side_do_not_ask():
    asked = dict(Retrieval(("audio_speech", "image"), all_items=True).run(Made(True), STATE, spoken(), step=0, details=True))
    # Of 12 items 8 are spoken, three times each, 9 have a picture, 6 both.
    assert [row[1:4] for row in asked["compared"].rows] == [[18, 24, 8], [6, 9, 9]]
    assert asked["audio_speech_to_image/r@1"] == asked["image_to_audio_speech/r@1"] == 1
    assert asked["audio_speech_to_image/r@1/chance"] == pytest.approx(1 / 9)
    assert asked["image_to_audio_speech/r@1/chance"] == pytest.approx(3 / 24)
    once = dict(Retrieval(("audio_speech", "audio_sound")).run(Made(True), STATE, spoken(), step=0, details=False))
    assert once["audio_speech_to_audio_sound/r@1/chance"] == pytest.approx(1 / 6)
    assert once["audio_sound_to_audio_speech/r@1/chance"] == pytest.approx(1 / 8), "the first recording of each"


def test_of_what_repeats_an_item_only_the_very_same_counts_once(monkeypatch):
    one = toy.Spoken.__getitem__

    def row(self, index):
        """Three rows an item: the same noise in all, another recording in each."""
        return {**one(self, index // 3), "audio_speech": bytes([index])}

    monkeypatch.setattr(toy.Spoken, "__getitem__", row)
    monkeypatch.setattr(toy.Spoken, "__len__", lambda self: 36)
    found = dict(Retrieval(("audio_sound", "audio_speech")).run(Made(True), STATE, spoken(), step=0, details=True))
    assert [row[1:4] for row in found["compared"].rows] == [[6, 6, 6], [18, 36, 12]]


def test_without_any_example_that_has_both_there_is_nothing_to_measure(monkeypatch):
    one = toy.Spoken.__getitem__
    monkeypatch.setattr(toy.Spoken, "__getitem__", lambda self, i: {**one(self, i), "image": one(self, 0)["image"] if i % 2 else None})
    with pytest.raises(DataError, match="no example of the validation split has both 'image' and 'audio_sound'"):
        list(Retrieval(("image", "audio_sound")).run(Made(True), STATE, spoken(), step=0, details=False))


def test_variants_of_either_side_and_classes_of_the_queries():
    french = {"audio_speech": 'toy.take("fr")|toy.wave(16)'}
    retrieval = Retrieval(("text", "audio_speech"), variants={"fr": french, "both": {**french, "text": "choose|tokens(9)"}}, by="label")
    found = dict(retrieval.run(Made(True), STATE, spoken(), step=0, details=True))
    assert found["fr/audio_speech_to_text/r@1"] == 1 and "fr/text_to_audio_speech/r@1" not in found, "the variant asks"
    assert found["both/audio_speech_to_text/r@1"] == found["both/text_to_audio_speech/r@1"] == 1
    assert found["by_variant_audio_speech_to_text"].labels == ["fr", "both"]
    bars = found["by_label_text_to_audio_speech"]
    assert bars.labels == ["animal (4)", "plant (4)"] and bars.series["r@10"] == [1, 1], "things are never spoken"
    assert bars.series["chance"] == [1, 1], "ten of eight"


def test_ridge_learns_colours_and_beats_chance():
    config = toy_config(data__source={"name": "toy:Toy", "size": 200})
    made = Data(**config["data"])
    pairs = {}
    for split in ("train", "validation", "test"):
        examples = made.examples(split)
        rows = [examples.shown(i) for i in range(len(examples))]
        texts = [re.sub(r" (red|green|blue)", r"\1", r["text"]) for r in rows]  # "darkred": a bag of words has no order
        pairs[split] = (np.stack([r["image"] for r in rows]), texts, np.arange(len(rows), dtype=np.int32))
    ridge = Ridge(pairs["train"][:2], pairs["validation"])
    images, texts, keys = pairs["test"]
    rank, right = ranks(ridge.texts(texts), keys, ridge.images(images), keys)
    assert summary(rank, (10,))["r@10"] > 3 * chance_summary(right, 200, (10,))["r@10"]


class Swings:
    """Two sensors of one swing: waves of the same size, the second turned, and an offset of its own."""

    fingerprint = "swings"

    def __init__(self, split):
        self.rng = np.random.default_rng(len(split))
        self.size = {"train": 60, "validation": 20, "test": 20}[split]
        self.sizes = self.rng.uniform(0.5, 3, (self.size, 4)).astype(np.float32)

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        wave = np.sin(np.arange(40, dtype=np.float32))[:, None] * self.sizes[i]
        return {"series_a": wave, "series_b": wave[:, [2, 0, 3, 1]] + 5, "label": int(self.sizes[i, 0] > 1.5), "key": i}

    def describe(self):
        return {}


def swings(split="validation"):
    data = {"source": {"name": "test_retrieval:Swings"}, "pp": {s: "window(32)" for s in ("series_a", "series_b")}, "batch_size": 16}
    return SplitView(Data(**data), make_mesh(), split)


def test_ridge_of_two_series_finds_the_other_sensor_by_its_statistics():
    found = dict(Retrieval(("series_a", "series_b")).run(Made(False), STATE, swings("test"), step=0, details=True))
    for direction in ("series_b_to_series_a", "series_a_to_series_b"):
        assert found[f"{direction}/r@1/ridge"] > 0.9 > 0.1 > found[f"{direction}/r@1/chance"] and found[f"{direction}/r@1"] == 0
    item = found["gallery_series_a_to_series_b"].queries[0]
    assert item.kind == "series" and item.content.startswith(b"\x89PNG")


def test_ridge_of_two_series_is_scikit_learns():
    from sklearn.linear_model import Ridge as Sklearn
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = {split: [Swings(split)[i] for i in range(20)] for split in ("train", "validation")}
    pairs = {split: ([r["series_a"] for r in r_], [r["series_b"] for r in r_]) for split, r_ in rows.items()}
    ridge = SeriesRidge(pairs["train"], (*pairs["validation"], np.arange(20, dtype=np.int32)))
    x, y = (np.stack([parse("statistics", "series")(s, None) for s in side]) for side in pairs["train"])
    wanted = make_pipeline(StandardScaler(), Sklearn(ridge.alpha, fit_intercept=False)).fit(x, StandardScaler().fit_transform(y))
    np.testing.assert_allclose(ridge.first(pairs["train"][0]), unit(wanted.predict(x)), atol=1e-3)


def test_loss_is_weighted_by_how_many_examples_count():
    class Fixed:
        def losses(self, state, batch, blind):
            count = float(np.asarray(batch["_mask"]).sum())
            return {"total": (np.float32(0 if blind else count), np.float32(count))}

    found = dict(Loss().run(Fixed(), STATE, view(), step=0, details=True))
    assert found == {"total": pytest.approx((16 * 16 + 4 * 4) / 20), "total/chance": 0.0}


def test_what_is_wrong_is_named():
    with pytest.raises(ConfigError, match="should be two"):
        Retrieval(streams=("image",))
    with pytest.raises(ConfigError, match="'rigde' is unknown"):
        Retrieval(baseline="rigde")
    with pytest.raises(ConfigError, match=r"variants.fr is of 'txt', which is none of .* Did you mean 'text'"):
        Retrieval(variants={"fr": {"txt": "tokens(8)"}})
    with pytest.raises(ConfigError, match=r"variants.fr has no operations"):
        Retrieval(variants={"fr": {}})
    with pytest.raises(ConfigError, match="by='class' is no label"):
        Retrieval(by="class")
    with pytest.raises(ConfigError, match=r"pp.text: no example of the validation split has it"):
        Retrieval(variants={"yy": {"text": 'choose("yy")|tokens(8)'}}).check(view())
    with pytest.raises(ConfigError, match="which data.pp does not read"):
        list(Retrieval(streams=("image", "audio")).run(Made(True), STATE, view(), step=0, details=False))
