"""GradCache: the gradient of a batch in micro-batches is the one through all of them at once, for the memory of one."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from test_loop import last_parameters

from mmjax import contract
from mmjax.config import ConfigError
from mmjax.contract import BATCH_AXES, Context, Encoding, Loss, fold_name
from mmjax.models.fuser import mixed_up
from mmjax.nn.model import ModuleModel
from mmjax.objectives.auxiliary import Auxiliary
from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.cross_entropy import CrossEntropy
from mmjax.objectives.distillation import Distillation
from mmjax.objectives.ogm_ge import OgmGe
from mmjax.objectives.rmfe import Rmfe
from mmjax.ops.masks import unit, zero_where_not
from mmjax.testing.checks import QUICK, quick
from mmjax.train.build import parts_of
from mmjax.train.embedder import Embedder
from mmjax.train.loop import train
from mmjax.train.optim import Optimizer
from mmjax.train.sharding import make_mesh, state_sharding
from mmjax.train.step import Weighted, init_state, make_step
from toy import toy_config

M = ("tabular_a", "tabular_b")


class Towers(nn.Module):
    """Two encoders of [B, 6], 5 tokens each, and a head; with a running mean that is taken off in training, too, where `centred`."""

    hidden: int = 20
    dropout: float = 0.0
    centred: bool = False
    mixup: bool = False

    @nn.compact
    def __call__(self, batch, *, train):
        outputs, pooled = {}, []
        for m in contract.streams(batch):
            here = contract.present(batch, m)
            if f"{m}/pooled" in batch:
                tokens, x = batch[m], batch[f"{m}/pooled"]
            else:
                x = nn.relu(nn.Dense(self.hidden, name=m)(zero_where_not(here, batch[m])))
                tokens = nn.Dropout(self.dropout, deterministic=not train)(x).reshape(len(x), 5, -1)
                x = tokens.mean(axis=1)
                if self.centred:
                    mean = self.variable("mean", f"{m}_mean", jnp.zeros, x.shape[1:])
                    before = mean.value
                    if train:
                        mean.value = 0.5 * (before + x.mean(axis=0))
                    x = x - before[None]
            outputs |= {
                f"{m}/tokens": tokens,
                f"{m}/pooled": x,
                f"{m}/z": zero_where_not(here, unit(nn.Dense(4, name=f"{m}_projection")(x))),
            }
            outputs[f"aux/{m}"] = jnp.square(x).mean(axis=1)
            pooled.append(zero_where_not(here, x + 0.1 * jnp.square(tokens).sum(axis=1)))
        fused = jnp.tanh(jnp.concatenate(pooled, axis=1))
        if self.mixup and train:
            fused, mixed = mixed_up(fused, jnp.ones(len(fused), bool), 0.4, self.make_rng("dropout"))
            outputs |= mixed
        return outputs | {"label/logits": nn.Dense(3, name="head")(fused)}


class Gradient(Optimizer):
    """Leaves the gradient in the place of the parameters."""

    def update(self, grads, state, trained, step):
        return grads, state


def batch_of(rows, seed=0):
    rng = np.random.default_rng(seed)
    batch = {m: jnp.asarray(rng.normal(size=(rows, 6)), jnp.float32) for m in M}
    batch |= {"label": jnp.asarray(rng.integers(0, 3, rows), jnp.int32), "tabular_a/present": jnp.arange(rows) % 7 != 3}
    return batch | {f"{m}/key": jnp.arange(rows) // 2 * 2 for m in M}


def weighted(**objectives):
    return {name: Weighted(objective, lambda step, i=i: jnp.float32(1 + i)) for i, (name, objective) in enumerate(objectives.items())}


OBJECTIVES = weighted(contrastive=Contrastive([M]), label=CrossEntropy(), auxiliary=Auxiliary())


def stepped(model, objectives, batch, cache=1, rules=((".*", {}),)):
    """The state before a step, and the state, with the gradient for its parameters, and the metrics after it."""
    optimizer = Gradient(steps=3, name="sgd", lr=1.0, rules=rules, cache=cache)
    state = quick(lambda batch: init_state(jax.random.key(0), batch, model, objectives, optimizer))(batch)
    return state, *quick(make_step(model, objectives, optimizer))(state, batch)


def straight_through(model, objectives, state, batch, parts):
    """The gradient through the concatenated outputs of all micro-batches, without a loop that is compiled; statistics; and the loss."""
    key = jax.random.fold_in(state.key, state.step)

    def total(params):
        def forward(batch, train=True, name="forward"):
            stats, joined = state.stats, {}
            for i in range(parts):
                rngs = {"dropout": jax.random.fold_in(fold_name(key, name), i)}
                micro = {k: x[i::parts] for k, x in batch.items()}
                outputs, stats = model.apply({"params": params["model"], **stats}, micro, train=train, rngs=rngs)
                stats = jax.lax.stop_gradient(stats)
                for k, x in outputs.items():
                    joined[k] = joined.get(k, jnp.zeros((x.shape[0] * parts, *x.shape[1:]), x.dtype)).at[i::parts].set(x)
            return joined, stats

        outputs, stats = forward(batch)
        loss = jnp.zeros(())
        for name, (objective, weight) in objectives.items():
            again = lambda batch, train, name=name: forward(batch, train, f"{name}/forward")[0]  # noqa: E731
            context = Context(params.get(name, {}), state.aux[name], state.step, fold_name(key, name), again)
            loss += weight(state.step) * sum(objective(context, outputs, batch).terms.values())
        return loss, stats

    (loss, stats), grads = quick(jax.value_and_grad(total, has_aux=True))(state.params)
    return grads, stats, loss


def assert_equal(got, wanted):
    """Within two millionths of the largest element of each array, or of 1e-3 where all of them are smaller."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        name, a, b = jax.tree_util.keystr(path), np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * max(np.abs(b).max(), 1e-3), err_msg=name)


MODEL = ModuleModel(Towers(dropout=0.3, centred=True))
BOTH = {**OBJECTIVES, **weighted(distillation=Distillation(students=M[:1]))}  # which runs the model again, with dropout of its own


@pytest.fixture(scope="module")
def cached():
    """A step in four micro-batches on one device, with dropout and statistics that outputs depend on in training."""
    return stepped(MODEL, BOTH, batch_of(32), cache=4)


def test_gradients_are_those_straight_through_all_micro_batches_with_the_same_keys(cached):
    """And with the same statistics: in its second pass a micro-batch has those of its first."""
    state, after, metrics = cached
    assert_equal((after.params, after.stats, metrics["loss"]), straight_through(MODEL, BOTH, state, batch_of(32), 4))


def test_without_dropout_a_step_is_the_plain_one():
    """Objectives' metrics and state included, gradients of gradients (`rmfe`), and what is made of gradients (`ogm_ge`)."""
    model, batch, objectives = ModuleModel(Towers()), batch_of(16), weighted(contrastive=Contrastive([M]), rmfe=Rmfe(), ogm_ge=OgmGe())
    (_, plain, wanted), (_, cached, found) = (stepped(model, objectives, batch, cache) for cache in (1, 4))
    assert_equal((cached.params, cached.aux, found), (plain.params, plain.aux, wanted))
    assert min(float(k) for k in cached.aux["ogm_ge"].values()) < 1, "gradients are modulated"


def test_eight_devices_give_the_gradients_of_one(cached):
    state, one, metrics = cached
    mesh = make_mesh(data=4, fsdp=2)
    placed = state_sharding(mesh, state, fsdp_min_size=64)
    assert not all(place.is_fully_replicated for place in jax.tree.leaves(placed.params))
    with jax.set_mesh(mesh):
        split = jax.device_put(batch_of(32), NamedSharding(mesh, PartitionSpec(BATCH_AXES)))
        step = make_step(MODEL, BOTH, Gradient(steps=3, name="sgd", lr=1.0, cache=4))
        eight, found = quick(step)(jax.device_put(state, placed), split)
    assert len(eight.params["model"]["tabular_a"]["kernel"].sharding.device_set) == 8
    assert_equal((eight.params, eight.stats, found["loss"]), (one.params, one.stats, metrics["loss"]))


def lowered(model, objectives, batch, cache, rules=((".*", {}),)):
    """A step that is not compiled yet."""
    optimizer = Optimizer(steps=3, name="sgd", rules=rules, cache=cache)
    state = jax.eval_shape(lambda batch: init_state(jax.random.key(0), batch, model, objectives, optimizer), batch)
    return jax.jit(make_step(model, objectives, optimizer)).lower(state, batch)


def test_activations_are_those_of_one_micro_batch():
    of = partial(lowered, ModuleModel(Towers(hidden=4_000)), weighted(contrastive=Contrastive([M])), batch_of(256))
    plain, cached = (of(cache=cache).compile(compiler_options=QUICK).memory_analysis().temp_size_in_bytes for cache in (1, 8))
    assert cached < plain / 4, (cached, plain)


class Tokens:
    """Reads the tokens, of which the loss is a mean."""

    batch_wise = True
    init = staticmethod(lambda key, batch, outputs: ({}, ()))

    def __call__(self, ctx, outputs, batch):
        return Loss({"tokens": jnp.square(outputs["tabular_a/tokens"]).mean()}, jnp.float32(len(batch["label"])))


def test_tokens_are_kept_only_where_an_objective_reads_them():
    of = partial(lowered, ModuleModel(Towers()), batch=batch_of(16), cache=4)
    kept = "tensor<4x4x5x4xf32>"  # micro-batches, rows, tokens, width
    assert kept not in of(objectives=OBJECTIVES).as_text()
    assert kept in of(objectives={**OBJECTIVES, **weighted(tokens=Tokens())}).as_text()


def test_what_is_frozen_has_no_second_pass_where_nothing_before_it_is_trained():
    contrastive, rules = weighted(contrastive=Contrastive([M])), [("model/tabular_a.*", {"freeze": True}), (".*", {})]
    some, whole = (lowered(MODEL, contrastive, batch_of(16), 4, r).as_text().count("dot_general") for r in (rules, [(".*", {})]))
    assert some <= whole - 5, "its two products again, the gradients of its two kernels and the one between them"


class Flat(nn.Module):
    """An encoder in one product."""

    @nn.compact
    def __call__(self, x, valid, present, *, train):
        return Encoding.from_pooled(nn.Dense(8)(x.reshape(len(x), -1).astype(jnp.float32) / 256), present)


def test_a_run_goes_on_and_is_embedded_with_fewer_rows(tmp_path):
    encoders = {m: {"name": "test_step_cache:Flat"} for m in ("image", "text")}
    config = {"evals": {}, "optimizer__cache": 2, "optimizer__schedule": "constant", "model__encoders": encoders, "model__dropout": 0.1}
    for folder, stops in {"whole": [4], "run": [2, 4]}.items():
        for steps in stops:
            train(toy_config(steps=steps, **config), tmp_path / folder)
    for a, b in zip(last_parameters(tmp_path / "run"), last_parameters(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert Embedder(str(tmp_path / "run"), batch_size=8).streams == ["image", "text"]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"cache": 0}, "optimizer.cache=0 should be at least 1"),
        ({"cache": 2, "accumulate": 2}, "accumulate=2 and cache=2 both cut a batch into micro-batches"),
        ({"accumulate": 2}, "another loss. Take optimizer.cache=2 instead"),
        ({"cache": 4}, "batch_size=16 does not split over 8 devices x 4 micro-batches: take 32"),
        ({"cach": 4}, "optimizer.cach is unknown. Did you mean 'cache'"),
    ],
)
def test_what_cannot_be_cached_is_refused(optimizer, message):
    with pytest.raises(ConfigError, match=message):
        parts_of(toy_config(optimizer=optimizer))


def test_rows_that_the_model_mixes_are_refused():
    with pytest.raises(ConfigError, match="model.mixup mixes the rows of a micro-batch"):
        lowered(ModuleModel(Towers(mixup=True)), weighted(label=CrossEntropy()), batch_of(16), 4)
