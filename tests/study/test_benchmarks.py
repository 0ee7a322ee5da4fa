"""The benchmarks train what they say, and count what they say; nothing here is timed."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from mmjax.config import UserError, changed, plain
from mmjax.study.ahead import lowered, planned
from mmjax.study.benchmarks import compile as compilation
from mmjax.study.benchmarks import loop, loss, peers, timing, train

CONFIGS = Path(__file__).parents[2] / "configs"


def load(name, argument="smoke"):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return plain(module.get_config(argument))


@pytest.mark.parametrize("model", train.MODELS)
def test_every_model_that_is_timed_is_a_config(model):
    batch = train.made_up(load(train.MODELS[model][0], ""), 2)
    image, text = batch["image"], batch["text"]
    assert image.dtype == np.uint8 and image.shape[0] == 2 and text.shape[0] == 2 and batch["text/valid"].any(axis=1).all()


def test_our_contestant_trains_and_counts(monkeypatch):
    config = load("clip_vit_b32")
    with jax.numpy_dtype_promotion("standard"):
        contestant, flops = train.ours(config, train.made_up(config, 4), half=False, towers={})
        assert contestant.work() == 4 * peers.STEPS
    parts = planned(changed(config, {"data.batch_size": 4}), {}, jax.devices()[:1])
    with jax.set_mesh(parts.mesh), jax.numpy_dtype_promotion("standard"):
        parameters = sum(x.size for x in jax.tree.leaves(parts.state_shapes().params))
    assert contestant.parameters == parameters and flops > 6 * 4 * 1_000
    assert contestant.memory > 4 * 3 * parameters, "parameters and two moments, at the least"


def test_all_ways_of_the_loss_are_one_loss_and_chunks_have_no_square():
    memory, values = {}, {}
    for size in (1_024, 2_048):
        sides = loss._sides(size)
        for way in ("dense", "chunked", "ring"):
            gradient, mesh = loss.loss_of(way, size)
            with jax.set_mesh(mesh):
                program = jax.jit(gradient).lower(tuple(sides)).compile()
                values[way, size], memory[way, size] = program(tuple(sides)), program.memory_analysis().temp_size_in_bytes
        for way in ("chunked", "ring"):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), values[way, size], values["dense", size])
    assert memory["dense", 2_048] > 2.5 * memory["dense", 1_024] and memory["chunked", 2_048] < memory["dense", 2_048] / 2


def test_a_scanned_step_grows_less_with_depth():
    def lines(depth, scan):
        towers = {f"model.encoders.{m}.{key}": v for m in ("image", "text") for key, v in {"depth": depth, "scan": scan}.items()}
        parts = planned(changed(load(compilation.CONFIG), towers), {}, jax.devices()[:1])
        with jax.numpy_dtype_promotion("standard"):
            return lowered(parts)[0].as_text().count("\n")

    growth = {scan: lines(4, scan) - lines(2, scan) for scan in (False, True)}
    assert growth[True] < 0.75 * growth[False], "what is left are the optimizer's operations, and each parameter's way into the stack"


def test_a_run_and_a_loop_by_hand_do_the_same_steps(tmp_path, monkeypatch):
    config = changed(load("fuse_watch"), {"steps": 3, "evals": {}, "checkpoint": {"every": 3}, "log": {"every": 1}})
    monkeypatch.setattr(loop, "EVERY", 1)
    assert loop.of_run(config, tmp_path / "run") > 0 and loop.written_by_hand(config) > 0


def test_what_a_peer_takes_is_one_line(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="takes torch, open_clip, not installed here: pip install"):
        peers.clip("ViT-B-32", {}, False, False)


def test_a_ratio_is_of_neighbours_in_time():
    assert timing.ratios({"ours": [4.0, 9.0, 2.0], "other": [2.0, 3.0, 4.0]}, "ours", "other") == "2.00 (0.50–3.00)"
