"""What training recipes add to a loss, against numpy and scikit-learn; and that each trains with a feature- and a decision-level fusion."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from objectives import loss_of
from scipy.special import log_softmax, softmax
from sklearn.cross_decomposition import CCA

from configs._recipes import RECIPES, apply
from mmjax.config import ConfigError, changed, plain
from mmjax.contract import Context
from mmjax.models.fuser import Fuser, mixed_up
from mmjax.objectives.cca import Cca, correlations
from mmjax.objectives.cross_entropy import CrossEntropy
from mmjax.objectives.distillation import Distillation
from mmjax.objectives.unimodal import Unimodal
from mmjax.study.side_by_side import Run, SideBySide
from toy import toy_config

RNG = np.random.default_rng(0)


def test_correlations_are_those_that_scikit_learn_finds():
    """Of 200 rows, of which some lack a side; without a ridge to speak of."""
    shared = RNG.normal(size=(200, 2))
    x = np.concatenate([shared + 0.5 * RNG.normal(size=(200, 2)), RNG.normal(size=(200, 2))], axis=1) @ RNG.normal(size=(4, 4))
    y = np.concatenate([shared + RNG.normal(size=(200, 2)), RNG.normal(size=(200, 1))], axis=1) @ RNG.normal(size=(3, 3))
    here = np.arange(200) % 7 != 0
    theirs = CCA(n_components=2, scale=False, max_iter=10_000).fit(x[here], y[here]).transform(x[here], y[here])
    wanted = [np.corrcoef(theirs[0][:, i], theirs[1][:, i])[0, 1] for i in range(2)]
    broken = np.where(here[:, None], x, np.nan)
    found = correlations(jnp.asarray(broken, jnp.float32), jnp.asarray(y, jnp.float32), jnp.asarray(here), 1e-6)
    np.testing.assert_allclose(found[:2], wanted, atol=2e-3)


def test_correlation_is_learned_and_safe_where_there_is_none():
    x, y = (jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32) for _ in range(2))
    here = jnp.ones(8, bool)
    value = jax.jit(jax.value_and_grad(lambda x: correlations(x, y, here, 0.1).sum()))
    before, x_ = float(value(x)[0]), x
    for _ in range(20):
        x_ = x_ + 0.3 * value(x_)[1]
    assert float(value(x_)[0]) > before + 0.1
    for degenerate in (jnp.zeros((8, 3)), jnp.ones((8, 3)), y):  # nothing varies; or all correlations are equal
        assert np.isfinite(value(degenerate)[1]).all()
    one = jnp.arange(8) == 2
    grads = jax.grad(lambda x: correlations(x, y, one, 0.1).sum())(x)
    assert (correlations(x, y, one, 0.1) == 0).all() and (np.asarray(grads) == 0).all()


def test_own_heads_are_measured_on_their_own_rows():
    objective, batch = Unimodal.tiny()
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    loss = loss_of(objective, {}, {k: v for k, v in batch.items() if k.endswith("logits")}, batch)
    log_p = log_softmax(batch["series_a/label/logits"], axis=1)[np.arange(8), batch["label"]]
    here = (np.arange(8) != 3) & (np.arange(8) != 5)
    assert float(loss.terms["series_a"]) == pytest.approx(-0.5 * log_p[here].mean(), rel=1e-5)
    assert float(loss.metrics["series_b/loss"]) == pytest.approx(float(loss.terms["series_b"]))


def test_the_whole_teaches_the_parts():
    """T^2 KL at temperature T, over rows with the modality and another; the teacher gets no gradient."""
    objective, batch = Distillation(temperature=3.0), Distillation.tiny()[1]
    student = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32)

    def total(teacher, student):
        forward = lambda batch, **_: {"label/logits": student}  # noqa: E731
        context = Context({}, (), jnp.int32(0), jax.random.key(0), forward)
        return objective(context, {"label/logits": teacher}, {k: jnp.asarray(v) for k, v in batch.items()}).terms["series_b"]

    teacher = jnp.asarray(batch["label/logits"])
    p, q = softmax(teacher / 3, axis=1), softmax(student / 3, axis=1)
    wanted = 9 * (p * np.log(p / q)).sum(axis=1)[np.arange(8) != 3].mean()
    assert float(total(teacher, student)) == pytest.approx(wanted, rel=1e-4)
    to_teacher, to_student = jax.grad(total, argnums=(0, 1))(jnp.asarray(teacher), jnp.asarray(student))
    assert (np.asarray(to_teacher) == 0).all() and (np.asarray(to_student)[np.arange(8) != 3] != 0).any()


def test_mixed_rows_have_both_targets():
    x, present = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32), jnp.arange(8) != 2
    mixed, outputs = mixed_up(x, present, 0.4, jax.random.key(1))
    partner, share = np.asarray(outputs["mixup/partner"]), float(outputs["mixup/share"][0])
    assert partner[2] == 2 and 2 not in np.delete(partner, 2) and 0 < share < 1 and (partner != np.arange(8)).any()
    np.testing.assert_allclose(mixed, share * x + (1 - share) * x[partner], atol=1e-6)
    logits, label = RNG.normal(size=(8, 3)).astype(np.float32), RNG.integers(0, 3, 8, dtype=np.int32)
    found = loss_of(CrossEntropy(), {}, {"label/logits": jnp.asarray(logits), **outputs}, {"label": jnp.asarray(label)}).terms["label"]
    log_p = log_softmax(logits, axis=1)
    wanted = -(share * log_p[np.arange(8), label] + (1 - share) * log_p[np.arange(8), label[partner]]).mean()
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    draws = np.array([float(mixed_up(x, present, 0.4, jax.random.key(i))[1]["mixup/share"][0]) for i in range(200)])
    assert abs(draws.mean() - 0.5) < 0.1 and draws.std() > 0.25  # Beta(0.4, 0.4): mostly near 0 or 1


def small(fusion):
    config = toy_config(steps=2, data__source={"name": "toy:Labelled"}, optimizer__lr=0.05, evals={})
    encoder = {"name": "subword_vectors", "width": 8, "buckets": 64}
    config["data"]["pp"] = {"text": 'choose("en")|lower|tokens(40)', "text_xx": 'choose("xx")|lower|tokens(12)', "label": "index()"}
    config["model"] = {
        "name": "fuser",
        "encoders": {"text": encoder, "text_xx": encoder},
        "fusion": {"name": fusion},
        "heads": {"label": {"size": 3}},
    }
    config["objectives"] = {"label": {"name": "cross_entropy"}}
    return config


@cache
def without(fusion):
    """The text encoder after the same steps without a recipe."""
    return SideBySide(small(fusion)).train([Run(0)])[0].params["model"]["text"]


@pytest.mark.parametrize(("recipe", "fusion"), [(r, f) for r in RECIPES if "dropout" not in r for f in ("concat", "decision")])
def test_a_recipe_trains(recipe, fusion):
    config = changed(small(fusion), RECIPES[recipe])
    assert config == plain(apply(ConfigDict(small(fusion)), recipe))
    if (recipe, fusion) == ("mixup", "decision"):
        with pytest.raises(ConfigError, match="decision-level fusion has none"):
            SideBySide(config)
        return
    side = SideBySide(config)
    (state,) = side.train([Run(0)])
    same = jax.tree.map(lambda a, b: bool((a == b).all()), without(fusion), state.params["model"]["text"])
    assert not all(jax.tree.leaves(same)), "the recipe changes what the encoders learn"


def test_wrong_recipes():
    with pytest.raises(ConfigError, match="Did you mean 'mixup'"):
        apply(ConfigDict(), "mixupp")
    with pytest.raises(ConfigError, match="set model.unimodal=True"):
        Unimodal().init(jax.random.key(0), {"label": 0}, {"label/logits": 0})
    with pytest.raises(ConfigError, match="one modality alone"):
        Distillation().init(jax.random.key(0), {"series": np.zeros((2, 2))}, {"label/logits": 0})
    with pytest.raises(ConfigError, match="fewer than two modalities"):
        Cca().init(jax.random.key(0), {}, {"series/pooled": 0})
    with pytest.raises(ConfigError, match="encodes no 'seris'"):
        Cca(pairs=[("seris", "series")]).init(jax.random.key(0), {}, {"series/pooled": 0})
    encoder = {"name": "subword_vectors", "width": 8}
    with pytest.raises(ConfigError, match="mixup=-1"):
        Fuser({"text": encoder}, {"name": "concat"}, {"label": {"size": 3}}, mixup=-1)
