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
from mmjax.objectives.gradient_blending import GradientBlending, chosen
from mmjax.objectives.ogm_ge import OgmGe
from mmjax.objectives.rmfe import Rmfe
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


def test_a_modality_that_is_ahead_is_slowed_down_as_published():
    """Of two modalities: the authors' formula. Their noise has the deviation of the gradient; what is no encoder stays as it is."""
    objective = OgmGe(alpha=0.3)
    ahead, behind = 0.8, 0.2
    found = objective.factors({"audio": jnp.float32(ahead), "image": jnp.float32(behind)})
    assert float(found["audio"]) == pytest.approx(1 - np.tanh(0.3 * ahead / behind), rel=1e-5) and float(found["image"]) == 1
    three = objective.factors({"audio": jnp.float32(0.6), "image": jnp.float32(0.3), "text": jnp.float32(0.5)})
    assert float(three["audio"]) == pytest.approx(1 - np.tanh(0.3 * 0.6 / 0.4), rel=1e-5) and float(three["image"]) == 1
    g = jnp.asarray(RNG.normal(2.0, 3.0, (400, 500)), jnp.float32)
    grads = {"model": {"audio": {"kernel": g}, "head": {"kernel": g}}, "cca": {"x": g}}
    plain = OgmGe(noise=False).modulate(grads, {"audio": jnp.float32(0.25), "image": jnp.float32(1)}, jax.random.key(0), jnp.int32(3))
    np.testing.assert_allclose(plain["model"]["audio"]["kernel"], 0.25 * g, rtol=1e-6)
    assert plain["model"]["head"] is grads["model"]["head"] and plain["cca"] is grads["cca"] and set(plain["model"]) == {"audio", "head"}
    noisy = objective.modulate(grads, {"audio": jnp.float32(0.25)}, jax.random.key(0), jnp.int32(3))["model"]["audio"]["kernel"]
    noise = np.asarray(noisy - 0.25 * g)
    assert noise.std() == pytest.approx(float(g.std()), rel=0.01) and abs(noise.mean()) < 0.05
    stopped = OgmGe(stop=3).modulate(grads, {"audio": jnp.float32(1)}, jax.random.key(0), jnp.int32(3))
    np.testing.assert_array_equal(stopped["model"]["audio"]["kernel"], g)


def test_the_probability_given_one_modality_alone_decides_who_is_ahead():
    objective, batch = OgmGe.tiny()
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    label = np.asarray(batch["label"])
    right = jnp.asarray(5.0 * np.eye(3)[label], jnp.float32)

    def forward(given, *, train):
        assert not train
        return {"label/logits": jnp.where(given["series_b/present"].any(), 0.0, 1.0) * right}  # series_a knows, series_b does not

    context = Context({}, (), jnp.int32(0), jax.random.key(0), forward)
    loss = objective(context, {}, {**batch, "series_b/present": jnp.ones(8, bool)})
    assert not loss.terms and float(loss.metrics["series_b/score"]) == pytest.approx(1 / 3)
    assert float(loss.metrics["series_a/score"]) == pytest.approx(softmax([5.0, 0, 0])[0], rel=1e-5)
    assert float(loss.aux["series_a"]) < 1 == float(loss.aux["series_b"])


def test_blending_weights_are_those_of_proposition_1():
    """Two windows of made-up losses, of which one is followed by the objective itself, step by step; held-out rows teach nothing."""
    objective, batch = GradientBlending.tiny()
    before, after = np.array([[2.0, 2.1], [2.0, 2.2], [2.0, 2.0]]), np.array([[1.0, 1.5], [1.8, 2.0], [1.5, 2.3]])
    gained, overfit = before[:, 1] - after[:, 1], (after[:, 1] - after[:, 0]) - (before[:, 1] - before[:, 0])
    wanted = np.array([gained[0] / overfit[0] ** 2, gained[1] / 0.02**2, 0])  # the second does not overfit at all, the third gets worse
    found = objective.weighed(jnp.ones(3) / 3, jnp.asarray(before, jnp.float32), jnp.asarray(after, jnp.float32))
    np.testing.assert_allclose(found, wanted / wanted.sum(), rtol=1e-3)
    worse = objective.weighed(jnp.asarray([0.5, 0.3, 0.2]), jnp.asarray(after, jnp.float32), jnp.asarray(after + 1, jnp.float32))
    np.testing.assert_allclose(worse, [0.5, 0.3, 0.2])

    objective = GradientBlending(every=2, heldout=0.5, smoothing=0.1)
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    held = np.asarray(chosen(batch["label/key"], 0.5))
    assert 0 < held.sum() < 8
    outputs = {k: v for k, v in batch.items() if k.endswith("logits")}
    _, aux = objective.init(jax.random.key(0), batch, outputs)
    total = lambda outputs, aux, step: (  # noqa: E731
        (loss := objective(Context({}, aux, jnp.int32(step), jax.random.key(0), None), outputs, batch)) and sum(loss.terms.values()),
        loss,
    )
    for step in range(5):
        scaled = {k: v + 0.3 * step * len(k) / 20 * jax.nn.one_hot(batch["label"], 3) for k, v in outputs.items()}
        grads, loss = jax.grad(total, has_aux=True)(scaled, aux, step)
        assert all((np.asarray(g)[held] == 0).all() for g in grads.values()) and any(
            (np.asarray(g)[~held] != 0).any() for g in grads.values()
        )
        aux = loss.aux
        if step < 4:
            np.testing.assert_allclose(aux["weights"], [1 / 3] * 3, rtol=1e-6)
    assert float(aux["weights"].sum()) == pytest.approx(1) and not np.allclose(aux["weights"], 1 / 3)
    here = jnp.asarray(~held & (np.arange(8) != 5))
    smoothed = CrossEntropy(smoothing=0.1).measured(scaled["series_b/label/logits"], batch["label"], here)[0]
    assert float(loss.terms["series_b"]) == pytest.approx(3 * float(aux["weights"][2] * smoothed), rel=1e-5)


def test_information_about_a_modality_is_that_of_the_authors():
    """A linear model on two modalities, whose gradient is known; noise is drawn again as the objective draws it."""
    w = {m: jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32) for m in ("series_a", "series_b")}
    x = {m: jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32) for m in w}
    batch = {m: jnp.zeros((6, 2)) for m in w} | {"label": jnp.zeros(6, jnp.int32)}
    seen = {}

    def forward(given, *, train):
        seen.update({m: given[f"{m}/pooled"] for m in w})
        return {"label/logits": sum(given[f"{m}/pooled"] @ w[m] for m in w)}

    outputs = {f"{m}/pooled": x[m] for m in w} | {f"{m}/tokens": x[m][:, None] for m in w}
    outputs["label/logits"] = sum(x[m] @ w[m] for m in w)
    with jax.disable_jit():
        loss = Rmfe(floor=1e-6)(Context({}, (), jnp.int32(0), jax.random.key(0), forward), outputs, batch)
    noisy = {m: np.asarray(getattr(z, "primal", z)) for m, z in seen.items()}
    p = softmax(np.asarray(outputs["label/logits"]), axis=1)
    said = sum(noisy[m] @ np.asarray(w[m]) for m in w)
    f = -(p * log_softmax(said, axis=1)).sum(axis=1)
    for m in w:
        grad = (softmax(said, axis=1) - p) @ np.asarray(w[m]).T
        wanted = (np.square(grad).sum(axis=1) / f).mean()
        assert float(loss.metrics[f"{m}/information"]) == pytest.approx(wanted, rel=1e-4)
        assert float(loss.terms[m]) == pytest.approx(1 / (wanted + 1e-6), rel=1e-4)
        assert not np.allclose(noisy[m], x[m])


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
    with pytest.raises(ConfigError, match="one modality alone"):
        OgmGe().init(jax.random.key(0), {"series": np.zeros((2, 2)), "label": 0}, {"label/logits": 0})
    with pytest.raises(ConfigError, match="Did you mean 'smoothing'"):
        GradientBlending(smothing=0.1)
    with pytest.raises(ConfigError, match="heldout=1"):
        GradientBlending(heldout=1)
    with pytest.raises(ConfigError, match="lower stages"):
        layered = {"name": "text_transformer", "vocab": 259, "width": 8, "depth": 2, "heads": 2}
        stages = {"model.encoders.text": layered, "model.encoders.text_xx": layered}
        SideBySide(changed(small("dense"), RECIPES["rmfe"], stages)).train([Run(0)])
    with pytest.raises(ConfigError, match="fewer than two modalities"):
        Cca().init(jax.random.key(0), {}, {"series/pooled": 0})
    with pytest.raises(ConfigError, match="encodes no 'seris'"):
        Cca(pairs=[("seris", "series")]).init(jax.random.key(0), {}, {"series/pooled": 0})
    encoder = {"name": "subword_vectors", "width": 8}
    with pytest.raises(ConfigError, match="mixup=-1"):
        Fuser({"text": encoder}, {"name": "concat"}, {"label": {"size": 3}}, mixup=-1)
