"""The gap between modalities against sums by hand, and the map of made-up embeddings."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_retrieval import STATE, spoken

import toy
from mmjax.config import ConfigError, DataError
from mmjax.contract import Scatter
from mmjax.evals.space import Space, modality_gap


class Cones:
    """Every modality in a cone of its own; a class turns it a little."""

    def __init__(self, apart=2.0):
        self.apart, self.replicated = apart, lambda x: x

    def outputs(self, state, batch, names):
        found = {}
        for i, name in enumerate(names):
            key = np.asarray(batch[name.replace("/z", "/key")])
            z = np.random.default_rng(5).normal(size=(13, 6))[np.where(key < 0, 12, key - 500)]
            z[:, i] += self.apart * 5
            found[name] = jnp.asarray((z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32))
        return found


def test_the_gap_and_its_chance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 5)).astype(np.float32)
    gap, chance = modality_gap(a, b + np.float32(2))
    assert gap == pytest.approx(np.sqrt((((b + 2).mean(0) - a.mean(0)) ** 2).sum()), rel=1e-5)
    both, dealt = np.concatenate([a, b + np.float32(2)]), []
    for _ in range(2_000):
        order = rng.permutation(80)
        dealt.append(modality_gap(both[order[:40]], both[order[40:]])[0])
    assert chance == pytest.approx(np.sqrt(np.mean(np.square(dealt))), rel=0.05) and gap > 3 * chance
    assert modality_gap(a[:1], a[:1]) == (0.0, 0.0)


def test_the_gap_is_over_what_has_both_and_the_map_of_all():
    found = dict(Space(points=100).run(Cones(), STATE, spoken(), step=0, details=True))
    assert sorted(name for name in found if name.startswith("gap") and "chance" not in name) == sorted(
        f"gap/{a}_and_{b}"
        for a, b in (
            ("image", "text"),
            ("image", "audio_speech"),
            ("image", "audio_sound"),
            ("text", "audio_speech"),
            ("text", "audio_sound"),
            ("audio_speech", "audio_sound"),
        )
    )
    assert found["gap/image_and_text"] > 1 > 0.5 > found["gap/image_and_text/chance"]
    near = dict(Space(("image", "text"), by=None).run(Cones(0.0), STATE, spoken(), step=0, details=False))
    assert near == {"gap/image_and_text": pytest.approx(0, abs=1e-6), "gap/image_and_text/chance": pytest.approx(0.5, abs=0.2)}
    shown = found["map"]
    assert isinstance(shown, Scatter) and len(shown.x) == len(shown.y) == 12 + 9 + 8 + 6
    assert shown.groups["modality"].count("audio_sound") == 6 and set(shown.groups["label"]) == set(toy.Spoken.classes["label"])


def test_the_map_is_drawn_by_a_fixed_seed_and_the_first_axis_of_pca_is_the_gap():
    space = Space(("image", "text"), method="pca", points=10)
    first, again = (dict(space.run(Cones(), STATE, spoken(), step=0, details=True))["map"] for _ in range(2))
    assert first == again and len(first.x) == 10 and "10 of 21 embeddings" in first.note
    x = np.array(first.x)
    pictures = np.array(first.groups["modality"]) == "image"
    assert (x[pictures] < 0).all() == (x[~pictures] > 0).all() and pictures.any()
    assert (x[pictures].max() < x[~pictures].min()) or (x[pictures].min() > x[~pictures].max())


def test_what_is_wrong_is_named():
    for options, said in (
        ({"streams": ("image",)}, "should be two or more"),
        ({"method": "umap"}, "method='umap' is unknown"),
        ({"points": 3}, "points=3 should be at least 10"),
    ):
        with pytest.raises(ConfigError, match=said):
            Space(**options)
    with pytest.raises(ConfigError, match="does not read 'video'"):
        Space(("image", "video")).check(spoken())
    with pytest.raises(ConfigError, match="by='class' is no label"):
        Space(by="class").check(spoken())
    with pytest.raises(DataError, match="they are not finite"):
        list(Space(("image", "text")).run(Cones(np.nan), STATE, spoken(), step=0, details=True))
