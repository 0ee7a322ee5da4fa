"""Optimizer state kept small: against the maps of its authors, bytes, training, restarts, meshes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from checks import quick
from mmjax.config import ConfigError
from mmjax.train.build import parts_of
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.moments import Quantized, _values, block_size, dequantized, quantized, rounded
from mmjax.train.optim import Optimizer
from mmjax.train.sharding import make_mesh
from toy import toy_config

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "moments.npz")


@pytest.mark.parametrize("name", ["signed", "plain"])
def test_values_and_numbers_are_those_of_bitsandbytes(name):
    plain = name == "plain"
    values = _values(jnp.arange(256, dtype=jnp.uint8), jnp.full(256, plain))
    np.testing.assert_allclose(values, GOLDEN[f"{name}/map"], rtol=2e-6)
    x, wanted = GOLDEN[f"{name}/x"], GOLDEN[f"{name}/codes"].astype(int)
    codes, scales = quick(quantized)(jnp.asarray(x))
    np.testing.assert_array_equal(np.abs(scales[:, 0]), GOLDEN[f"{name}/scales"].ravel())
    assert (np.signbit(scales) == plain).all()
    # What is positive stays positive, unlike there.
    np.testing.assert_array_equal(codes, np.where(plain & (wanted == 0) & (x > 0), 1, wanted))
    same = wanted > 0
    np.testing.assert_allclose(dequantized(codes, scales)[same], GOLDEN[f"{name}/y"][same], rtol=2e-6)


@pytest.mark.parametrize("plain", [False, True])
def test_every_number_becomes_the_nearest_value(plain):
    """A value stays what it is, whatever its block is multiplied by; anything else goes to the nearer of its neighbours."""
    table = GOLDEN["plain/map" if plain else "signed/map"]
    inputs = np.sort(np.concatenate([table, *((table[1:] * (1 + s) + table[:-1] * (1 - s)) / 2 for s in (-0.98, -0.02, 0.02, 0.98))]))
    x = np.pad(inputs, (0, 1_283 - len(inputs))).astype(np.float32)[None]
    codes, scales = quick(quantized)(3e-5 * jnp.asarray(x))
    assert scales.shape == (1, 1), "1,283 is prime"
    distances = np.abs(x[0, :, None] - table)
    wanted = distances.argmin(axis=1)
    np.testing.assert_array_equal(codes[0], np.where(plain & (wanted == 0) & (x[0] > 0), 1, wanted))
    error = np.abs(np.asarray(dequantized(codes, scales))[0] / 3e-5 - x[0])
    # Half the distance between values: of a decade up to 1, 0.45 / 64 (or / 128), and at most 45 % (23 %) of the decade's end below.
    assert error.max() <= 0.45 / (128 if plain else 64) + 1e-6


def test_blocks_fit_between_the_parts_of_a_mesh():
    assert {n: block_size(n) for n in (768, 1024, 3072, 4304, 1000, 1009, 10, 4099)} == {
        768: 96, 1024: 64, 3072: 96, 4304: 269, 1000: 125, 1009: 1009, 10: 10, 4099: 4099,
    }  # fmt: skip


def test_rounding_to_bfloat16_is_right_on_average_and_moves_by_less_than_a_step():
    x = jnp.float32(1.0 + 1 / 128 * 0.3) * jnp.asarray([1.0, -1e-20, 0.0], jnp.float32)
    drawn = np.asarray(jax.vmap(lambda key: rounded(x, key))(jax.random.split(jax.random.key(0), 4_000)), np.float64)
    np.testing.assert_allclose(drawn.mean(axis=0), x, rtol=3e-4)
    assert (drawn[:, 2] == 0).all() and len(np.unique(drawn[:, 0])) == 2
    assert np.isnan(rounded(jnp.float32(np.nan), jax.random.key(0))) and np.isinf(rounded(jnp.float32(np.inf), jax.random.key(0)))


def network(params, x):
    x = jax.nn.gelu(x @ params["in"]["kernel"] + params["in"]["bias"][None])
    return jax.nn.gelu(x @ params["mid"]["kernel"]) @ params["out"]["kernel"]


def trained_on_digits(name, moments, lr, steps=100):
    """Loss on the training digits, accuracy on the others and the state, after some passes."""
    digits = load_digits()
    x, y = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
    rng = np.random.default_rng(0)
    shapes = {"in": (64, 128), "mid": (128, 128), "out": (128, 10)}
    params = {n: {"kernel": jnp.asarray(rng.normal(size=s) / s[0] ** 0.5, jnp.float32)} for n, s in shapes.items()}
    params["in"]["bias"] = jnp.zeros(128)
    optimizer = Optimizer(steps=steps, name=name, moments=moments, lr=lr, warmup=10)

    def loss(params, x, y):
        return -jnp.take_along_axis(jax.nn.log_softmax(network(params, x)), y[:, None], axis=1).mean()

    def step(carry, i):
        params, state = carry
        rows = jax.random.randint(jax.random.fold_in(jax.random.key(1), i), (128,), 0, 1_400)
        return optimizer.update(jax.grad(loss)(params, x[rows], y[rows]), state, params, i), None

    (params, state), _ = quick(lambda: jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps)))()
    right = (network(params, x[1_400:]).argmax(axis=1) == y[1_400:]).mean()
    return float(loss(params, x[:1_400], y[:1_400])), float(right), state


def size(state):
    return sum(x.nbytes for x in jax.tree.leaves(state))


@pytest.mark.parametrize(("name", "lr"), [("adamw", 3e-3), ("lion", 1e-3)])
def test_handwritten_digits_are_learnt_as_with_float32(name, lr):
    loss, right, state = trained_on_digits(name, "float32", lr=lr)
    assert right > 0.85
    for moments, bytes_ in (("bfloat16", 2), ("int8", 1 + 4 / 64)):
        other, other_right, kept = trained_on_digits(name, moments, lr=lr)
        assert abs(other - loss) <= 0.01 * loss, f"the loss with {moments} is {other:.5f}, not {loss:.5f}"
        assert abs(other_right - right) <= 0.01
        large = 64 * 128 + 128 * 128  # the kernels of 4,096 elements and more
        count = {"adamw": 2}.get(name, 1)
        assert size(state) - size(kept) == pytest.approx(count * large * (4 - bytes_))


def test_what_is_small_a_vector_or_excepted_stays_float32():
    wide = jnp.ones((64, 128))
    params = {"a": {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(5_000)}, "b": jnp.ones((63, 64)), "c": wide, "d": wide}
    rules = [("c", {"moments": "float32"}), ("d", {"freeze": True}), (".*", {})]
    state = Optimizer(steps=1, moments="int8", rules=rules).init(params)
    assert isinstance(state, Quantized)
    kept = {path: x.dtype for path, x in jax.tree.leaves_with_path(state.state)}
    small = {jax.tree_util.keystr(path, simple=True, separator="/") for path, dtype in kept.items() if dtype == jnp.uint8}
    assert {path.split("/", 2)[-1] for path in small} == {"a/kernel"} and len(small) == 2
    plain = Optimizer(steps=1).init(params)
    assert jax.tree.structure(Optimizer(steps=1, moments="bfloat16").init(params)) == jax.tree.structure(plain)
    assert jax.tree.structure(Optimizer(steps=1, moments="int8", moments_min_size=10**9).init(params)) == jax.tree.structure(plain)
    muon = Optimizer(steps=1, name="muon", moments="int8").init(params)  # momentum of a matrix, Adam's moments of the rest
    assert sorted(x.shape for x in jax.tree.leaves(muon) if x.dtype == jnp.uint8) == [(64, 64)] + 4 * [(64, 128)]
    half = Optimizer(steps=1, moments="int8", mu_dtype="bfloat16").init(params)
    assert sorted(str(x.dtype) for x in jax.tree.leaves(half.state) if x.shape == (64, 64)) == ["bfloat16", "uint8"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"moments": "int4"}, "optimizer.moments='int4' is unknown. Did you mean 'int8'"),
     ({"rules": [(".*", {"moments": "bf16"})]}, r"optimizer.rules\[0\].moments='bf16' is unknown")],
)  # fmt: skip
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        Optimizer(**{"steps": 1, **change})


def run(mesh, moments, folder=None):
    """Losses, shapes and state after five steps on a mesh (None: on one device); with a folder also from a checkpoint of step 3 on."""
    optimizer = {"name": "adamw", "lr": 1e-2, "eps": 1e-3, "ema": 0.9, "moments": moments, "moments_min_size": 64}
    config = toy_config(mesh={**(mesh or {}), "fsdp_min_size": 64}, optimizer=optimizer)
    for encoder in config["model"]["encoders"].values():
        encoder["heads"] = 8
    with pytest.MonkeyPatch.context() as patch:
        if mesh is None:
            patch.setattr("mmjax.train.build.make_mesh", lambda **_: make_mesh(devices=jax.devices()[:1]))
        parts = parts_of(config)
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        step, batches = parts.step(shapes), parts.data.train_batches(parts.mesh)
        batches = [next(batches) for _ in range(5)]
        state, losses, again = parts.init(shapes, batches[0]), [], None
        for i, batch in enumerate(batches):
            if i == 3 and folder:
                checkpoints = Checkpoints(folder)
                checkpoints.save(state, {"data": "d"})
                checkpoints.wait()
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        if folder:
            again = checkpoints.restore(3, shapes)
            for batch in batches[3:]:
                again, _ = step(again, batch)
    for array, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
        assert array.sharding.is_equivalent_to(wanted.sharding, array.ndim) and array.dtype == wanted.dtype
    return losses, state, again


@pytest.mark.parametrize("moments", [pytest.param("bfloat16", marks=pytest.mark.slow), "int8"])
def test_a_run_on_a_mesh_is_that_of_one_device_and_goes_on_from_its_checkpoint_to_the_bit(moments, tmp_path):
    losses, state, again = run({"fsdp": 4, "tensor": 2}, moments, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((state._replace(key=0), again._replace(key=0))))
    wanted, one, _ = run(None, moments)
    np.testing.assert_allclose(losses, wanted, rtol=2e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), *jax.device_get((state.params, one.params)))
    kernel = state.params["model"]["text"]["transformer"]["block_00"]["mlp"]["in"]["kernel"]
    # Both moments of it, and of the other encoder's, which is as large.
    small = [x for x in jax.tree.leaves(state.opt) if x.shape == kernel.shape]
    assert len(small) == 4 and all(x.dtype == (jnp.uint8 if moments == "int8" else jnp.bfloat16) for x in small)
    assert all(x.sharding.is_equivalent_to(kernel.sharding, 2) and not x.sharding.is_fully_replicated for x in small)
