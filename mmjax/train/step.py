"""One pure step, `(state, batch) -> (state, metrics)`, and the pure functions that evaluators get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from mmjax.config import ConfigError, nearest
from mmjax.contract import BATCH_AXES, Batch, Context, Loss, Outputs, State, fold_name
from mmjax.data.batch_pp import BatchPP
from mmjax.ops.layout import constrained
from mmjax.train.optim import Optimizer, merge

PHASE = "main"
PLAIN = BatchPP()
Apply = Callable[..., tuple[Outputs, dict[str, Any]]]  # of a `Model`


@runtime_checkable
class Model(Protocol):
    """What training sees of a model."""

    def init(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Any]:
        """The variables: `params`, and collections that are not trained."""
        ...

    def apply(
        self, variables: Mapping[str, Any], batch: Batch, *, train: bool, rngs: Mapping[str, PRNGKeyArray] | None = None
    ) -> tuple[Outputs, dict[str, Any]]:
        """Outputs, and the collections that are not trained as they are after this batch."""
        ...


@runtime_checkable
class Objective(Protocol):
    """What training sees of an objective."""

    batch_wise: bool  # whether an example's loss depends on the rest of its batch

    def init(self, key: PRNGKeyArray, batch: Batch, outputs: Outputs) -> tuple[Any, Any]:
        """Its own parameters, trained with the model's, and its own state."""
        ...

    def __call__(self, ctx: Context, outputs: Outputs, batch: Batch) -> Loss:
        """Its terms, on the outputs of the model for this batch."""
        ...

    # Optionally `modulate(grads, aux, key, step) -> grads`: what it makes of the gradients of all objectives' terms, after
    # the pass that gave `aux`, its own new state.


class Weighted(NamedTuple):
    """An objective and the factor of its terms, a function of the step."""

    objective: Objective
    weight: Callable[[Array], Array]


def init_state(
    key: PRNGKeyArray,
    batch: Batch,
    model: Model,
    objectives: Mapping[str, Weighted],
    optimizer: Optimizer,
    batch_pp: BatchPP = PLAIN,
    fitted: Mapping[str, Any] | None = None,
) -> State:
    """The state before the first step. Pure: jit it with shardings and no array is ever whole on one device."""
    fitted = fitted or {}
    batch = batch_pp(batch, fitted)
    variables = model.init(fold_name(key, "model"), batch)
    stats = {name: value for name, value in variables.items() if name != "params"}
    outputs, _ = model.apply(variables, batch, train=False)
    params, aux = {"model": variables["params"]}, {}
    for name, (objective, _) in objectives.items():
        own, aux[name] = objective.init(fold_name(key, name), batch, outputs)
        if own:
            params[name] = own
    ema = jax.tree.map(jnp.copy, params) if optimizer.ema_decay is not None else ()
    return State(jnp.zeros((), jnp.int32), params, stats, aux, {PHASE: optimizer.init(params)}, ema, fitted, key)


def _losses(
    apply: Apply,
    objectives: Mapping[str, Weighted],
    params: Any,
    stats: Any,
    aux: Any,
    step: Array,
    key: Array,
    batch: Batch,
    train: bool,
    blind: bool = False,
) -> tuple[dict[str, Loss], Any]:
    """Every objective's loss on one pass of the model (on outputs that are all zero if `blind`), and the statistics after it."""

    def run(batch, params=params["model"], train=train, name="forward"):
        return apply({"params": params, **stats}, batch, train=train, rngs={"dropout": fold_name(key, name)})

    outputs, new_stats = run(batch)
    if blind:
        outputs = jax.tree.map(jnp.zeros_like, outputs)
    losses = {}
    for name, (objective, _) in objectives.items():

        def forward(*args, _name=name, **kwargs):
            return run(*args, name=f"{_name}/forward", **kwargs)[0]

        losses[name] = objective(Context(params.get(name, {}), aux[name], step, fold_name(key, name), forward), outputs, batch)
    return losses, new_stats


def _metrics(losses: Mapping[str, Loss], objectives: Mapping[str, Weighted], step: Array) -> dict[str, Array]:
    """The total, and every term and metric under its objective's name."""
    totals = {name: objectives[name].weight(step) * sum(loss.terms.values()) for name, loss in losses.items()}
    metrics = {"loss": jnp.asarray(sum(totals.values()))}
    for name, loss in losses.items():
        metrics |= {f"{name}/{key}": value for key, value in {**loss.terms, **loss.metrics}.items()}
    return metrics


def make_step(
    model: Model, objectives: Mapping[str, Weighted], optimizer: Optimizer, batch_pp: BatchPP = PLAIN
) -> Callable[[State, Batch], tuple[State, dict]]:
    """The training step. Raises ConfigError where a batch-wise objective should be accumulated."""
    batch_wise = [name for name, (objective, _) in objectives.items() if objective.batch_wise]
    if optimizer.accumulate > 1 and batch_wise:
        raise ConfigError(
            f"optimizer.accumulate={optimizer.accumulate}: the objective {batch_wise[0]!r} compares the examples of a batch with each "
            f"other, so its sum over micro-batches is another loss. Take optimizer.cache={optimizer.accumulate} instead."
        )
    apply = model.apply if optimizer.cache == 1 else partial(_cached, model.apply, optimizer.cache)
    modulators = {name: fn for name, (objective, _) in objectives.items() if (fn := getattr(objective, "modulate", None))}
    gradient = partial(_plain if optimizer.accumulate == 1 else _accumulated, apply, objectives, optimizer)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        trained, frozen = optimizer.split(state.params)
        grads, metrics, stats, aux = gradient(state, trained, frozen, key, batch_pp(batch, state.fitted, key))
        for name, modulate in modulators.items():
            grads = modulate(grads, aux[name], fold_name(key, f"{name}/modulate"), state.step)
        new_trained, opt = optimizer.update(grads, state.opt[PHASE], trained, state.step)
        params = merge(new_trained, frozen)
        metrics |= {"grad_norm": optax.tree.norm(grads), "lr": optimizer.schedule(state.step)}
        ema = optimizer.average(state.ema, params, state.step)
        return state._replace(step=state.step + 1, params=params, stats=stats, aux=aux, opt={PHASE: opt}, ema=ema), metrics

    return step


def make_loss(
    model: Model, objectives: Mapping[str, Weighted], optimizer: Optimizer, batch_pp: BatchPP = PLAIN
) -> Callable[[Any, State, Batch], Array]:
    """`loss(trained, state, batch)`, which a step differentiates by the trained parameters, of a batch (or micro-batch) in one piece."""

    def loss(trained: Any, state: State, batch: Batch) -> Array:
        key = jax.random.fold_in(state.key, state.step)
        params, batch = merge(trained, optimizer.split(state.params)[1]), batch_pp(batch, state.fitted, key)
        losses, _ = _losses(model.apply, objectives, params, state.stats, state.aux, state.step, key, batch, True)
        return _metrics(losses, objectives, state.step)["loss"]

    return loss


def _plain(apply, objectives, optimizer, state: State, trained, frozen, key, batch):
    """The gradient of the whole batch at once."""

    def total(trained):
        losses, stats = _losses(apply, objectives, merge(trained, frozen), state.stats, state.aux, state.step, key, batch, True)
        metrics = _metrics(losses, objectives, state.step)
        return metrics["loss"], (metrics, stats, {name: loss.aux for name, loss in losses.items()})

    grads, (metrics, stats, aux) = jax.grad(total, has_aux=True)(trained)
    return grads, metrics, stats, aux


def _accumulated(apply, objectives, optimizer, state: State, trained, frozen, key, batch):
    """The gradient of the whole batch, micro-batch by micro-batch: sums weighted by each objective's count of examples.

    With several objectives each has its own count, hence a backward pass of its own.
    """
    parts = optimizer.accumulate

    def one(carry, part):
        (stats, aux, grads), (i, micro) = carry, part

        def sums(trained):
            params, micro_key = merge(trained, frozen), jax.random.fold_in(key, i)
            losses, new_stats = _losses(apply, objectives, params, stats, aux, state.step, micro_key, micro, True)
            total = {name: loss.weight * objectives[name].weight(state.step) * sum(loss.terms.values()) for name, loss in losses.items()}
            return total, (losses, new_stats)

        total, pull, (losses, stats) = jax.vjp(sums, trained, has_aux=True)
        for name in total:
            (gradient,) = pull({other: jnp.float32(other == name) for other in total})
            grads[name] = jax.tree.map(jnp.add, grads[name], gradient)
        aux = {name: loss.aux for name, loss in losses.items()}
        return (stats, aux, grads), {name: loss._replace(aux=()) for name, loss in losses.items()}

    zeros = {name: jax.tree.map(jnp.zeros_like, trained) for name in objectives}
    carry = (state.stats, state.aux, zeros)
    (stats, aux, grads), losses = jax.lax.scan(one, carry, (jnp.arange(parts), _cut(batch, parts)))
    count = {name: jnp.maximum(loss.weight.sum(), 1e-9) for name, loss in losses.items()}
    mean = {name: jax.tree.map(lambda x, n=name: (x * losses[n].weight).sum() / count[n], loss) for name, loss in losses.items()}
    total = jax.tree.map(lambda *gs: sum(g / c for g, c in zip(gs, count.values(), strict=True)), *(grads[name] for name in count))
    return total, _metrics(mean, objectives, state.step), stats, aux


def _cached(apply: Apply, parts: int, variables, batch, *, train, rngs) -> tuple[Outputs, dict[str, Any]]:
    """`apply` in micro-batches, of which outputs alone are kept: for the gradient each is computed again, when its turn comes.

    GradCache: Gao et al., 2021, 'Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup'. Both times a
    micro-batch has the same keys, and the statistics that those before it left, which are constants to the gradient.
    Objectives' further passes go the same way. Outputs that nothing reads, such as tokens [B, N, D], `jit` prunes.
    """
    params = variables["params"]

    @partial(jax.checkpoint, prevent_cse=False)  # a scan keeps the two passes apart by itself
    def one(stats, part):
        i, micro = part
        own = {name: jax.random.fold_in(key, i) for name, key in rngs.items()}
        outputs, stats = apply({"params": params, **stats}, micro, train=train, rngs=own)
        return jax.lax.stop_gradient(stats), outputs

    stats = {name: value for name, value in variables.items() if name != "params"}
    stats, outputs = jax.lax.scan(one, stats, (jnp.arange(parts), _cut(batch, parts)))
    if "mixup/partner" in outputs:
        raise ConfigError("optimizer.cache: model.mixup mixes the rows of a micro-batch, and losses are of all: take one of the two.")
    return jax.tree.map(_joined, outputs), stats


def _cut(batch: Batch, parts: int) -> dict[str, Array]:
    """[B, ...] to [parts, B / parts, ...]: row r goes to micro-batch r % parts, so every device keeps its rows."""

    def cut(x):
        return constrained(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), None, BATCH_AXES)

    return jax.tree.map(cut, dict(batch))


def _joined(x: Array) -> Array:
    """[parts, B / parts, ...] back to [B, ...]."""
    return constrained(x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), BATCH_AXES, *[...] * (x.ndim - 2))


class Functions(NamedTuple):
    """What evaluators get: pure, jitted, of the state and a batch. The moving average stands in for the parameters where there is one."""

    outputs: Callable[..., Outputs]  # outputs(state, batch, names): those of the outputs, replicated
    losses: Callable[..., dict]  # losses(state, batch, blind): {objective/term: (value, weight)}
    replicated: Callable[[Array], Array]  # an array of the batch, whole on every device
    kept: dict[Any, Any] | None = None  # what evaluators of one state have found and share; None where nothing is shared


def make_functions(model: Model, objectives: Mapping[str, Weighted], batch_pp: BatchPP = PLAIN) -> Functions:
    """See `Functions`. `blind` losses are those of a model whose outputs are all zero: it tells nothing from anything."""

    def outputs(state: State, batch: Batch, names: tuple[str, ...]) -> Outputs:
        params = state.ema["model"] if state.ema else state.params["model"]
        found, _ = model.apply({"params": params, **state.stats}, batch_pp(batch, state.fitted), train=False)
        if missing := [name for name in names if name not in found]:
            raise ConfigError(f"The model gives no {missing[0]!r}.{nearest(missing[0], found)}")
        return {name: constrained(found[name]) for name in names}

    def losses(state: State, batch: Batch, blind: bool = False) -> dict:
        params, batch = state.ema or state.params, batch_pp(batch, state.fitted)
        found, _ = _losses(model.apply, objectives, params, state.stats, state.aux, state.step, state.key, batch, False, blind)
        flat = {f"{name}/{key}": (value, loss.weight) for name, loss in found.items() for key, value in loss.terms.items()}
        total = _metrics(found, objectives, state.step)["loss"]
        return {"total": (total, next(iter(found.values())).weight), **flat}

    replicated = jax.jit(lambda x: constrained(x))
    return Functions(jax.jit(outputs, static_argnums=2), jax.jit(losses, static_argnums=2), replicated)
