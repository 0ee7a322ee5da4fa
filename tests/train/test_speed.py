"""How fast a run says it is, and what it says of programs that are compiled again."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.train import speed
from mmjax.train.logging import RunLog
from mmjax.train.loop import train
from toy import toy_config

W, X = jnp.ones((5, 32, 32)), jnp.ones((16, 32))
PRODUCTS = 2 * 5 * 16 * 32 * 32


def scanned(w, x):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0].sum()


def unrolled(w, x):
    for one in w:
        x = x @ one
    return x.sum()


def test_a_loop_counts_as_often_as_it_runs():
    once, often = (speed.step_flops(jax.jit(f), W, X) for f in (unrolled, scanned))
    assert once == pytest.approx(PRODUCTS, rel=0.01) and often == pytest.approx(once, rel=0.01)
    assert speed.products(jax.make_jaxpr(jax.grad(scanned))(W, X)) == 3 * PRODUCTS
    branches = jax.make_jaxpr(lambda p, x: jax.lax.cond(p, lambda x: x @ W[0], lambda x: x, x))(True, X)
    assert speed.products(branches) == PRODUCTS / 5


def test_each_device_counts_its_share():
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
    replicated = jax.device_put(W, NamedSharding(mesh, PartitionSpec()))
    assert speed.step_flops(jax.jit(scanned), replicated, x) == pytest.approx(PRODUCTS / 8, rel=0.05)


def test_convolutions_count_their_kernel_once_an_output():
    convolve = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "VALID", feature_group_count=4, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    traced = jax.jit(convolve).trace(jnp.ones((2, 8, 8, 8)), jnp.ones((3, 3, 2, 16)))
    assert speed.products(traced.jaxpr) == pytest.approx(traced.lower().compile().cost_analysis()["flops"], rel=0.01)


@pytest.mark.parametrize(
    ("platform", "kind", "flops"), [("gpu", "NVIDIA H200", 989.4e12), ("tpu", "TPU v5 lite", 197e12), ("tpu", "TPU v5", 459e12)]
)
def test_a_known_device_has_its_published_peak(monkeypatch, platform, kind, flops):
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform=platform, device_kind=kind)])
    assert speed.peak_flops.__wrapped__() == flops


def test_lines_say_how_fast_it_is_and_nothing_of_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "matmul_flops", lambda side, dtype: 1e9)
    speed.peak_flops.cache_clear()
    try:
        train(toy_config(steps=4, log__every=1), tmp_path / "run")
    finally:
        speed.peak_flops.cache_clear()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, *others = [line for line in lines if "train/loss" in line]
    assert "train/examples_per_s" not in first
    for line in others:
        assert line["train/tflops_per_s"] > 0 and line["train/memory_gib"] > 0
        assert line["train/mfu"] == pytest.approx(line["train/tflops_per_s"] * 1e12 / 1e9)


def test_what_is_compiled_again_after_the_first_evaluation_is_told_with_its_cause(tmp_path, capsys):
    def step(x):
        return x * 2

    compiled = jax.jit(step)
    compiled(jnp.ones(3))
    log = RunLog(tmp_path, steps=9, batch_size=1, tensorboard=False)
    log.pause(0.0)
    compiled(jnp.ones(3))
    jax.jit(lambda x: x - 1)(jnp.ones(3))  # of no interest
    assert "again" not in capsys.readouterr().err
    compiled(jnp.ones(4))
    assert "step was compiled again" in (told := capsys.readouterr().err) and "now f32[4] and before f32[3]" in told
    compiled(jax.device_put(jnp.ones(4), jax.devices()[1]))
    assert "lie on the devices in another way" in capsys.readouterr().err
    log.close()
    compiled(jnp.ones(5))
    assert "again" not in capsys.readouterr().err


def test_a_run_compiles_nothing_after_its_first_evaluation(tmp_path, capsys):
    config = toy_config(steps=6, checkpoint__every=2)
    config["evals"]["retrieval"] |= {"every": 2}
    train(config, tmp_path / "run")
    assert "compiled again" not in capsys.readouterr().err
