"""Ranks against a slow loop, chance against a simulation, and the evaluator on embeddings made up for it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config import ConfigError
from mmjax.contract import Bars, Gallery, Matrix, State
from mmjax.data.loader import Data, SplitView
from mmjax.evals._ridge import Ridge
from mmjax.evals.loss import Loss
from mmjax.evals.retrieval import Retrieval
from mmjax.ops.retrieval import chance_summary, chance_within, ranks, summary
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
    retrieval = Retrieval(texts={"en": 'choose("en")|tokens(40)', "xx": 'choose("xx")|tokens(40)'}, gallery=5)
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
    assert isinstance(found["by_language_text_to_image"], Bars) and found["by_language_text_to_image"].labels == ["en", "xx"]
    nothing = dict(Retrieval(baseline=None).run(Made(False), STATE, view(), step=0, details=True))
    assert nothing["text_to_image/r@10"] == 0


def test_the_headline_is_for_the_runs_own_texts_whatever_else_is_measured():
    class OnlyEnglish(Made):
        """Knows nothing of texts that are not a colour's words: 'item7' is shorter than any of them."""

        def outputs(self, state, batch, names):
            (found,) = super().outputs(state, batch, names).values()
            known = np.asarray(batch["text/valid"]).sum(1) > 12 if "text" in batch else np.ones(len(found), bool)
            return {names[0]: jnp.asarray(np.asarray(found) * known[:, None].astype(np.float32))}

    texts = {"aa": 'choose("xx")|tokens(40)', "en": 'choose("en")|tokens(40)'}  # sorted, the one it does not know comes first
    found = dict(Retrieval(texts=texts, baseline=None).run(OnlyEnglish(True), STATE, view(), step=0, details=True))
    assert found["text_to_image/r@1"] == found["en/text_to_image/r@1"] == 1 and found["aa/text_to_image/r@1"] == 0


def test_every_text_is_a_query_where_asked():
    asked = dict(Retrieval(all_texts=True, baseline=None).run(Made(True), STATE, view(), step=0, details=False))
    assert asked["text_to_image/r@1"] == 1
    assert asked["image_to_text/r@1/chance"] == pytest.approx(2 / 40), "two texts an image, each right"


def test_what_cannot_be_read_is_no_query_and_no_candidate():
    source = {"name": "toy:Toy", "broken": [3], "empty": [4]}
    found = dict(
        Retrieval(baseline="ridge").run(Made(True), STATE, view(data__source=source, data__max_unreadable=0.3), step=0, details=True)
    )
    assert found["text_to_image/r@1"] == 18 / 19, "the text of the image that cannot be read has nothing to find"
    assert found["text_to_image/r@1/chance"] == pytest.approx(18 / 19 / 19)


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
    with pytest.raises(ConfigError, match="which data.pp does not read"):
        list(Retrieval(streams=("image", "audio")).run(Made(True), STATE, view(), step=0, details=False))
