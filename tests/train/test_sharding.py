"""Training on any mesh equals training on one device; where arrays lie; meshes, rules and batches that do not fit."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from checks import quick
from mmjax.config import ConfigError
from mmjax.contract import BATCH_AXES, MESH_AXES, Context, State
from mmjax.train.build import parts_of
from mmjax.train.sharding import RULES, check_batch_size, make_mesh, state_sharding
from toy import toy_config

MESHES = [dict(zip(MESH_AXES, sizes, strict=True)) for sizes in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(sizes) == 8]


def config_on(mesh, **changes):
    # Momentum, not Adam: that blows up the rounding of gradients which are zero but for it, such as a key bias's.
    optimizer = {"name": "sgd", "momentum": 0.9, "lr": 0.1, "ema": 0.9}
    config = toy_config(mesh={**mesh, "fsdp_min_size": 64}, optimizer=optimizer, **changes)
    for encoder in config["model"]["encoders"].values():
        encoder["heads"] = 8  # which any axis divides
    return config


def parts_on(mesh, **changes):
    """The parts of a run on a mesh of all devices; on one device without a mesh."""
    with pytest.MonkeyPatch.context() as patch:
        if mesh is None:
            patch.setattr("mmjax.train.build.make_mesh", lambda **_: make_mesh(devices=jax.devices()[:1]))
        return parts_of(config_on(mesh or {}, **changes))


def loss_and_gradients(mesh):
    """Of a batch that is drawn, of parameters that are, without dropout."""
    parts = parts_on(mesh, model__encoders__text__dropout=0.0)
    objective = parts.objectives["contrastive"].objective
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda s: jax.device_put(0.3 * rng.normal(size=s.shape).astype(s.dtype), s.sharding), shapes.params)
        rows = NamedSharding(parts.mesh, PartitionSpec(BATCH_AXES))
        batch = {"image": rng.uniform(-1, 1, (16, 8, 8, 3)).astype(np.float32), "text": rng.integers(3, 259, (16, 40), dtype=np.int32)}
        batch |= {"text/valid": np.arange(40) < rng.integers(1, 41, 16)[:, None], "image/present": np.arange(16) != 5}

        def loss(params, batch):
            outputs, _ = parts.model.apply({"params": params["model"]}, batch, train=True, rngs={})
            return sum(objective(Context(params["contrastive"], (), 0, None, None), outputs, batch).terms.values())

        return jax.device_get(quick(jax.value_and_grad(loss))(params, jax.device_put(batch, rows)))


def some_losses(mesh, steps=3):
    """Losses and the state after some steps of training."""
    parts = parts_on(mesh)
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        step = parts.step(shapes)
        batches = parts.data.train_batches(parts.mesh)
        state = parts.init(shapes, next(parts.data.train_batches(parts.mesh)))
        losses = []
        for _ in range(steps):
            state, metrics = step(state, next(batches))
            losses.append(float(metrics["loss"]))
    for array, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
        assert array.sharding.is_equivalent_to(wanted.sharding, array.ndim), "the step leaves everything where it was"
    return losses, state


@pytest.fixture(scope="module")
def one_device():
    losses, state = some_losses(None)
    return losses, jax.device_get((state.params, state.ema))


@pytest.fixture(scope="module")
def gradients_of_one_device():
    return loss_and_gradients(None)


def name_of(mesh):
    return " ".join(f"{axis}{size}" for axis, size in mesh.items() if size > 1)


@pytest.mark.parametrize("mesh", MESHES, ids=name_of)
def test_every_mesh_of_eight_devices_gives_the_loss_and_the_gradients_of_one(mesh, gradients_of_one_device):
    loss, gradients = loss_and_gradients(mesh)
    wanted, wanted_gradients = gradients_of_one_device
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(wanted_gradients))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 * largest), gradients, wanted_gradients)


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "fsdp": 4}, {"fsdp": 2, "sequence": 2, "tensor": 2}], ids=name_of)
def test_training_on_a_mesh_is_training_on_one_device(mesh, one_device):
    losses, state = some_losses(mesh)
    np.testing.assert_allclose(losses, one_device[0], rtol=3e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), jax.device_get((state.params, state.ema)), one_device[1]
    )
    kernel = state.params["model"]["text"]["transformer"]["block_00"]["mlp"]["in"]["kernel"]
    moments = [x for x in jax.tree.leaves(state.opt) if x.shape == kernel.shape]
    assert len(moments) >= 1
    for array in (kernel, *moments):
        parts = mesh.get("fsdp", 1) * mesh.get("tensor", 1)
        assert array.addressable_shards[0].data.size == array.size // parts, "parameters and optimizer state are split alike"


def test_between_layers_rows_and_tokens_are_split_and_within_them_heads_and_hidden_units():
    parts = parts_of(config_on({"data": 2, "sequence": 2, "tensor": 2}))
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        batch = parts.data.train_batches(parts.mesh)
        program = str(jax.jit(parts.step(shapes)).trace(shapes, next(batch)).jaxpr)
    for spec in ("'sequence', None", "'sequence', 'tensor', None", "None, 'tensor', None"):
        assert f"PartitionSpec(('data', 'fsdp'), {spec})" in program or f"P(('data', 'fsdp'), {spec})" in program, spec


def placed(shapes, mesh=None, **more):
    """Where the parameters of a state of these shapes lie, by path."""
    params = {"model": {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}}
    state = State(
        jax.ShapeDtypeStruct((), jnp.int32), params, {}, {}, {"main": params}, params, {}, jax.eval_shape(lambda: jax.random.key(0))
    )
    found = state_sharding(make_mesh(**(mesh or {"data": 2, "fsdp": 4})), state, **{"fsdp_min_size": 100, **more})
    assert found.opt["main"] == found.params == found.ema
    return {path: s.spec for path, s in found.params["model"].items()}


def test_large_arrays_are_split_over_fsdp_and_small_ones_are_not():
    found = placed({"big": (6, 64, 32), "odd": (33, 35), "small": (8,)})
    assert found == {"big": PartitionSpec(None, "fsdp", None), "odd": PartitionSpec(None, None), "small": PartitionSpec(None)}


def test_ready_rules_split_heads_and_hidden_units():
    shapes = {"attention/query/kernel": (16, 32), "attention/out/kernel": (32, 16), "mlp/in/bias": (64,), "mlp/out/bias": (16,)}
    found = placed({f"block_00/{path}": shape for path, shape in shapes.items()}, {"fsdp": 2, "tensor": 4})
    wanted = [("fsdp", "tensor"), ("tensor", "fsdp"), ("tensor",), (None,)]
    assert [found[f"block_00/{path}"] for path in shapes] == [PartitionSpec(*spec) for spec in wanted]


def test_rules_of_ones_own_go_before_the_ready_ones():
    rules = [["model/table", {"fsdp": 0, "tensor": 0}], ["model/whole.*", {}], *RULES]
    found = placed({"table": (64, 3), "whole": (64, 64), "rest": (64, 64)}, {"fsdp": 2, "tensor": 4}, rules=rules)
    assert found == {
        "table": PartitionSpec(("fsdp", "tensor"), None),
        "whole": PartitionSpec(None, None),
        "rest": PartitionSpec("fsdp", None),
    }


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([["model/a", {}]], r"mesh\.rules cover no parameter 'model/b': end them with"),
        ([["model/c", {"fsdp": 0}], [".*", {}]], r"mesh\.rules\[0\]: 'model/c' covers no parameter"),
        ([[".*", {}], ["model/a", {}]], r"mesh\.rules\[1\]: 'model/a' covers no parameter that those before it leave"),
        ([[".*", {"tensr": 0}]], r"mesh\.rules\[0\]\.tensr is unknown\. Did you mean 'tensor'"),
        ([[".*", {"tensor": "last"}]], r"mesh\.rules\[0\]\.tensor='last' should be the number of a dimension"),
        ([["(", {}]], r"mesh\.rules\[0\]: '\(' is no regular expression"),
        ([[".*", {"tensor": 2}]], r"tensor=2 is no dimension of 'model/a', which has 2"),
        ([[".*", {"tensor": -1}]], r"dimension 1 of 'model/b', 6 long, does not split over tensor=4: take 4 or 8, another size.*1, 2, 3"),
        ([[".*", {"tensor": 0, "fsdp": 0}]], r"dimension 0 of 'model/b', 4 long, does not split over fsdp=2 x tensor=4: take 8, another"),
    ],
)  # fmt: skip
def test_rules_that_do_not_fit(rules, message):
    with pytest.raises(ConfigError, match=message):
        placed({"a": (16, 16), "b": (4, 6)}, {"fsdp": 2, "tensor": 4}, rules=rules)


def test_what_is_wrong_with_rules_and_heads_is_said_before_data_is_read():
    with pytest.raises(ConfigError, match=r"mesh\.rules\[0\]\.fspd is unknown"):
        parts_of(toy_config(mesh={"rules": [[".*", {"fspd": 0}]]}))
    with pytest.raises(ConfigError, match=r"mesh: 2 heads do not split over tensor=4: take a divisor of 2"):
        parts = parts_of(toy_config(mesh={"tensor": 4}))
        with jax.set_mesh(parts.mesh):
            parts.state_shapes()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, "data=3, fsdp=1, sequence=1, tensor=1 does not multiply out to the 8 devices that there are: take data=8"),
        ({"data": 8, "fsdp": 4}, "take data=2"),
        ({"data": -1, "tensor": 3}, "take sizes whose product is 8"),
        ({"data": -1, "fsdp": -1}, "one of them"),
        ({"fsdp": 0}, "positive"),
    ],
)
def test_meshes_that_do_not_fit(sizes, message):
    with pytest.raises(ConfigError, match=message):
        make_mesh(**sizes)


def test_batches_that_the_devices_do_not_divide():
    mesh = make_mesh()
    with pytest.raises(ConfigError, match=r"batch_size=20 does not split over 8 devices: take 16 or 24"):
        check_batch_size(mesh, 20)
    with pytest.raises(ConfigError, match=r"8 devices x 2 micro-batches: take 16\."):
        check_batch_size(mesh, 8, accumulate=2)
    with pytest.raises(ConfigError, match="batch_size=20"):
        parts_of(toy_config(data__batch_size=20))
