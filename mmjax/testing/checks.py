"""What every encoder has to pass, whoever wrote it. Knows nothing of a class but `tiny() -> (instance, batch)`.

    for check in CHECKS:
        check(of_encoder(MyEncoder))

Each check raises AssertionError and says what is wrong. A subject compiles one training step and one evaluation, and
all checks share them. What fusions have to pass besides stands in `fusion.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, wraps
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax import contract
from mmjax.contract import Encoding
from mmjax.nn.model import ModuleModel
from mmjax.ops.masks import zero_where_not

# Parameters that may lack a gradient, by the end of their path, and why. A class adds its own as `no_gradient = {end of path: why}`.
NO_GRADIENT = {
    "key/bias": "adds the same to all logits of a query, and softmax ignores that",
    "project_norm/batch/bias": "adds the same to all positions, which a 1x1 convolution passes on and the next batch norm takes out",
}


QUICK = {"xla_backend_optimization_level": 0}  # compiled in half the time


class _FromBatch(nn.Module):
    """An encoder that takes its arguments out of a batch."""

    encoder: nn.Module
    stream: str

    def __call__(self, batch, *, train):
        valid, present = (batch.get(f"{self.stream}/{name}") for name in ("valid", "present"))
        return {"encoding": self.encoder(batch[self.stream], valid, present, train=train)}


def of_encoder(cls: Any) -> Subject:
    """The subject that an encoder class is."""
    instance, batch = cls.tiny()
    (stream,) = contract.streams(batch)
    return Subject(lambda encoder: ModuleModel(_FromBatch(encoder, stream)), instance, batch)


class Subject:
    """A part under test: `wrap(instance)` is a model with one output, an Encoding; `batch` holds its streams."""

    def __init__(self, wrap: Callable[[Any], Any], instance: Any, batch: Mapping[str, Any]):
        self.wrap, self.instance = wrap, instance
        self.batch = {name: jnp.asarray(value) for name, value in batch.items()}
        self.streams = contract.streams(batch)
        self.rows = len(self.batch[self.streams[0]])
        assert self.rows >= 4 and self.rows % 2 == 0, f"tiny() gives {self.rows} rows: the checks need an even number from 4 on."
        for stream in self.streams:
            ragged = contract.kind(stream) not in ("image", "tabular")
            assert f"{stream}/valid" in batch or not ragged, f"tiny() gives no {stream}/valid: nothing would test what is not valid."
        self.model = wrap(instance)
        self.traces = {"step": 0, "evaluate": 0}  # how often Python ran: once a compilation
        self.step: Any = quick(self._step)
        self.evaluate: Any = quick(self._evaluate)

    def apply(self, variables: Any, batch: Mapping[str, Any], **kwargs: Any) -> tuple[Encoding, Any]:
        """The encoding, and the statistics after the batch."""
        outputs, stats = self.model.apply(variables, batch, **kwargs)
        (encoding,) = outputs.values()
        return encoding, stats

    @cached_property
    def variables(self) -> dict[str, Any]:
        """Randomised, since what starts at zero hides what is behind it; nearby, so that norms keep their scale."""
        return randomised(quick(self.model.init)(jax.random.key(0), self.batch))

    def with_presence(self, *absent: int) -> dict[str, Any]:
        """The batch without these rows."""
        here = jnp.asarray(~np.isin(np.arange(self.rows), absent))
        return {**self.batch, **{f"{stream}/present": here for stream in self.streams}}

    def presences(self) -> list[dict[str, Any]]:
        """Three batches that lack different rows."""
        return [self.with_presence(2), self.with_presence(0, self.rows - 1), self.with_presence(1, 2)]

    def differentiable(self) -> list[str]:
        """The entries of the batch that pass gradients on to what made them."""
        return []

    def _step(self, variables, batch):
        self.traces["step"] += 1
        return self.gradients(variables, batch)

    def gradients(self, variables: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """One pass in training: outputs, statistics after it, and the gradients of the parameters and of what is `differentiable`."""

        def loss(params, inputs):
            variables_ = {**variables, "params": params}
            encoding, stats = self.apply(variables_, {**batch, **inputs}, train=True, rngs={"dropout": jax.random.key(1)})
            return probe(encoding), (encoding, stats)

        inputs = {name: batch[name] for name in self.differentiable()}
        (_, (encoding, stats)), (grads, passed) = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables.get("params", {}), inputs)
        return {"outputs": encoding, "statistics": stats, "gradients": grads, "passed on": passed}

    def _evaluate(self, variables, batch):
        self.traces["evaluate"] += 1
        return self.apply(variables, batch, train=False)[0]


def randomised(variables: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """The variables with noise on every parameter."""
    rng = np.random.default_rng(seed)

    def noisy(leaf):
        return leaf + jnp.asarray(rng.normal(size=leaf.shape) / max(np.prod(leaf.shape[:-1]), 9) ** 0.5, leaf.dtype)

    return {**variables, "params": jax.tree.map(noisy, variables.get("params", {}))}


def drawn(module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Random variables for a module, without the time to compile its own initialisation."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))

    def start(path, leaf):
        return jnp.full(leaf.shape, float(path[-1].key in ("scale", "var")), leaf.dtype)

    return randomised(jax.tree_util.tree_map_with_path(start, shapes))


def quick(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jitted for running a few times."""
    return jax.jit(function, compiler_options=QUICK)


def probe(encoding: Encoding) -> jax.Array:
    """A loss that looks at everything which is real in an encoding, with a weight of its own for every number."""

    def weighed(x):
        weight = np.random.default_rng(0).normal(size=x.shape).astype(np.float32) / x.size**0.5
        return (x.astype(jnp.float32) * weight).sum()

    aux = [weighed(zero_where_not(encoding.present, value)) for value in encoding.aux.values()]
    pooled = weighed(zero_where_not(encoding.present, encoding.pooled))
    return sum(aux, weighed(zero_where_not(encoding.valid, encoding.tokens)) + pooled)


def strict(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """Under strict promotion of types and ranks, wherever the check is called from."""

    @wraps(check)
    def run(subject: Any) -> None:
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            check(subject)

    return run


def assert_same(got: Any, wanted: Any, what: str, tolerance: float = 1e-6) -> None:
    """Equal trees: within `tolerance` of each leaf's largest entry, and finite."""
    for (path, a), (_, b) in zip(jax.tree.leaves_with_path(got), jax.tree.leaves_with_path(wanted), strict=True):
        a, b = (np.asarray(x, np.float64 if x.dtype != bool else bool) for x in (a, b))
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert a.shape == b.shape, f"{what}: {name} has shape {a.shape}, not {b.shape}."
        if a.dtype == bool:
            assert (a == b).all(), f"{what}: {name} differs."
            continue
        assert np.isfinite(a).all(), f"{what}: {name} is not finite."
        worst, scale = np.abs(a - b).max(initial=0), np.abs(b).max(initial=0)
        assert worst <= tolerance * max(scale, 1), f"{what}: {name} differs by {worst:.2g}."


def assert_finite(tree: Any, what: str) -> None:
    """No leaf has an infinite or undefined entry."""
    assert_same(tree, tree, what)


@strict
def check_contract(subject: Subject) -> None:
    """Shapes, types and masks are those of an Encoding."""
    absent = 2
    batch, rows = subject.with_presence(absent), subject.rows
    e = subject.evaluate(subject.variables, batch)
    assert isinstance(e, Encoding), f"The output is {type(e).__name__}, not an Encoding."
    tokens = e.tokens.shape
    assert len(tokens) == 3 and tokens[0] == rows, f"tokens: {tokens} is not [B={rows}, N, D]."
    assert e.pooled.shape == (rows, tokens[2]), f"pooled: {e.pooled.shape} is not [B, D] = {(rows, tokens[2])}."
    for name, value, shape in (("valid", e.valid, tokens[:2]), ("present", e.present, (rows,))):
        assert value.shape == shape and value.dtype == bool, f"{name}: {value.dtype}{value.shape} is not bool{shape}."
    assert e.time is None or e.time.shape == tokens[:2], f"time: {e.time.shape} is not [B, N]."
    for name, value in {"tokens": e.tokens, "pooled": e.pooled, **e.aux}.items():
        assert value.dtype == jnp.float32, f"{name} is {value.dtype}, not float32."
    for name, value in e.aux.items():
        assert value.shape == (rows,), f"aux/{name}: {value.shape} is not [B]."
    for i, value in enumerate(e.stages):
        assert value.ndim >= 3 and len(value) == rows, f"stages[{i}]: {value.shape} does not begin with B, N."
    here = np.any([contract.present(batch, stream) for stream in subject.streams], axis=0)
    assert (np.asarray(e.present) == here).all(), "present is not the batch's."
    assert (np.asarray(e.valid).any(axis=1) == here).all(), "valid: an absent row has valid tokens, or a present one has none."
    assert_finite(e, "outputs")
    wrong = [path for path, leaf in paths(subject.variables["params"]) if leaf.dtype != jnp.float32]
    assert not wrong, f"Parameters of another type than float32: {wrong}"


def contents(batch: Mapping[str, Any], stream: str) -> list[str]:
    """The entries of a batch that hold what a stream says: its own and, of an encoding, the further parts of it."""
    further = (name for name in batch if name.startswith(f"{stream}/") and name.split("/")[1] not in ("valid", "present", "key"))
    return [stream, *further]


def filled(batch: Mapping[str, Any], streams: list[str], value: float, validity: bool) -> dict[str, Any]:
    """The batch with `value` wherever a stream is absent or not valid, and `validity` as the validity of absent rows."""
    out = dict(batch)
    for stream in streams:
        here, valid = contract.present(batch, stream), batch.get(f"{stream}/valid")
        if valid is not None:
            out[f"{stream}/valid"] = jnp.where(here[:, None], valid, validity)
        for name in contents(batch, stream):
            content, fill = batch[name], value
            real = here
            if valid is not None and content.shape[:2] == valid.shape and not name.endswith("/pooled"):
                real = here[:, None] & valid
            if jnp.issubdtype(content.dtype, jnp.integer):  # ids: the smallest and largest in use, and two out of range
                fill = {0.0: int(content.min()), 1.0: int(content.max()), 1e4: 10**9}.get(value, -7)
            keep = real.reshape(real.shape + (1,) * (content.ndim - real.ndim))
            out[name] = jnp.where(keep, content, jnp.asarray(fill, content.dtype))
    return out


@strict
def check_absent_content(subject: Subject) -> None:
    """Whatever stands in absent rows and at invalid positions: outputs, gradients and statistics are the same."""
    for batch in subject.presences():
        clean = filled(batch, subject.streams, 0.0, False)
        wanted = subject.step(subject.variables, clean), subject.evaluate(subject.variables, clean)
        for value, validity in ((np.nan, True), (1e4, False), (1.0, True)):
            dirty = filled(batch, subject.streams, value, validity)
            got = subject.step(subject.variables, dirty), subject.evaluate(subject.variables, dirty)
            assert_same(got, wanted, f"With {value} where nothing is")


@strict
def check_absent_rows(subject: Subject) -> None:
    """Absent rows take no part in the batch: half of the rows give what they give twice over, statistics too."""
    half = subject.rows // 2
    lacking = subject.with_presence(*range(half, subject.rows))
    twice = {name: jnp.concatenate([value[:half]] * 2) for name, value in subject.with_presence().items()}
    seen = [subject.step(subject.variables, batch) for batch in (lacking, twice)]
    first = [jax.tree.map(lambda x: x[:half], s["outputs"]) for s in seen]
    assert_same(first[0], first[1], "With rows absent that repeat the present ones otherwise", 1e-4)
    statistics = [s["statistics"] for s in seen]
    assert_same(statistics[0], statistics[1], "The statistics, with rows absent that repeat the present ones otherwise", 1e-4)


@strict
def check_all_absent(subject: Subject) -> None:
    """A batch with nothing in it: finite outputs and gradients, and statistics that stay."""
    batch = filled(subject.with_presence(*range(subject.rows)), subject.streams, np.nan, True)
    seen = subject.step(subject.variables, batch)
    assert_finite(seen, "With nothing present")
    assert_finite(subject.evaluate(subject.variables, batch), "With nothing present, evaluated")
    before = {name: value for name, value in subject.variables.items() if name != "params"}
    assert_same(seen["statistics"], before, "The statistics of a batch with nothing present")


@strict
def check_content_matters(subject: Subject) -> None:
    """In evaluation a row's pooled vector depends on its own content and on no other row's; where a class is `source_only`, on `main`'s."""
    main = getattr(subject.instance, "main", None) or subject.streams[0]
    read = [main] if getattr(subject.instance, "source_only", False) else subject.streams
    e = subject.evaluate(subject.variables, subject.with_presence())
    for stream in subject.streams:
        said = (name for name in contents(subject.batch, stream) if not name.endswith("/time"))
        moved = {**subject.with_presence(), **{name: subject.batch[name].at[0].set(jnp.flip(subject.batch[name][0])) for name in said}}
        change = np.abs(np.asarray(subject.evaluate(subject.variables, moved).pooled - e.pooled)).max(axis=1)
        assert stream not in read or change[0] > 1e-4, f"pooled does not depend on {stream}."
        assert stream in read or change[0] <= 1e-6, f"pooled depends on {stream}, and the class says that it is source_only."
        assert (change[1:] <= 1e-6).all(), f"pooled depends on another row's {stream}."


@strict
def check_gradients(subject: Subject) -> None:
    """Some gradient reaches every parameter."""
    largest: dict[str, float] = {}
    for batch in subject.presences():
        for path, leaf in paths(subject.step(subject.variables, batch)["gradients"]):
            largest[path] = max(largest.get(path, 0), float(jnp.abs(leaf).max()))
    overall, excepted = max(largest.values(), default=0.0), (*NO_GRADIENT, *getattr(subject.instance, "no_gradient", {}))
    dead = [path for path, size in largest.items() if not size > 1e-4 * overall and not path.endswith(excepted)]
    assert not dead, f"No gradient reaches {', '.join(dead)}."


@strict
def check_jit(subject: Subject) -> None:
    """Without jit, and with masks left out instead of all true, the outputs are the same."""
    bare = {stream: subject.batch[stream] for stream in subject.streams}
    valid = {name: jnp.ones_like(value) for name, value in subject.batch.items() if name.endswith("/valid")}
    jitted = subject.evaluate(subject.variables, {**subject.with_presence(), **valid})
    eager, _ = subject.apply(subject.variables, bare, train=False)
    assert_same(jitted, eager, "Jitted against eager", 1e-5)


@strict
def check_compilations(subject: Subject) -> None:
    """Presence is data: another one is no other program."""
    for batch in subject.presences():
        subject.step(subject.variables, batch)
        subject.evaluate(subject.variables, batch)
    assert max(subject.traces.values()) <= 1, f"Compiled again for another presence: {subject.traces}"


@strict
def check_vmap(subject: Subject) -> None:
    """A stack of parameters, as for several seeds, gives a stack of what each gives."""
    other = randomised(subject.variables, seed=1)
    batch = subject.presences()[0]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), subject.variables, other)
    got = quick(jax.vmap(lambda variables: subject.apply(variables, batch, train=False)[0], axis_size=2))(stacked)  # also without any
    wanted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(subject.evaluate(v, batch) for v in (subject.variables, other)))
    assert_same(got, wanted, "Vmapped over parameters", 1e-5)


@strict
def check_bfloat16(subject: Subject) -> None:
    """`dtype="bfloat16"` computes in bfloat16 on float32 parameters, to about the same result.

    Under standard promotion of types: flax's own norms mix the two.
    """
    assert hasattr(subject.instance, "dtype"), "It takes no dtype."
    batch = filled(subject.presences()[0], subject.streams, np.nan, True)
    other = Subject(subject.wrap, subject.instance.clone(dtype="bfloat16"), subject.batch)
    full = subject.step(subject.variables, batch)
    with jax.numpy_dtype_promotion("standard"):
        shapes = jax.eval_shape(lambda: other.model.init(jax.random.key(0), batch))
        half = other.step(subject.variables, batch)
    wrong = [path for path, leaf in paths(shapes["params"]) if leaf.dtype != jnp.float32]
    assert not wrong, f"Parameters of another type than float32: {wrong}"
    assert half["outputs"].pooled.dtype == jnp.bfloat16, f"pooled is {half['outputs'].pooled.dtype}: not computed in bfloat16."
    assert_finite(half, "In bfloat16")
    wrong = [path for path, leaf in paths((half["gradients"], half["statistics"])) if leaf.dtype != jnp.float32]
    assert not wrong, f"Gradients or statistics of another type than float32: {wrong}"
    assert_same(half["outputs"].pooled, full["outputs"].pooled, "bfloat16 against float32", 0.1)


def paths(tree: Any) -> list[tuple[str, Any]]:
    """The leaves, each with its path as `a/b/c`."""
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


CHECKS = (
    check_contract,
    check_absent_content,
    check_absent_rows,
    check_all_absent,
    check_content_matters,
    check_gradients,
    check_jit,
    check_compilations,
    check_vmap,
    check_bfloat16,
)
