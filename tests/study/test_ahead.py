"""Whether training fits: shapes without data, programs compiled ahead, what they need, and what would make them fit."""

import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config import ConfigError, changed
from mmjax.data.sources.stand_in import stands_in
from mmjax.study import ahead, memory
from mmjax.study.fit import COMPILED, ESTIMATED, Fit, cut, flags, largest_batch, mesh_of, rematerialised, sharded, suggestions
from mmjax.train.build import parts_of
from mmjax.train.chips import CHIPS, Chip, chip_of
from toy import toy_config

HERE = Chip("here", "cpu", "", 2**40, 2**40, 1e12, 1e11, 1, 1e10, 1e9, 8)  # the tests' own devices
ABSENT = {"name": "files", "path": "/nobody/has/{00..99}.tar", "streams": {"image": "jpg", "text": "txt"}}


def config(**changes):
    """A run whose data are not there: one block and a head, of which a step compiles in two seconds."""
    run = {
        "steps": 2,
        "data": {"source": ABSENT, "batch_size": 32, "pp": {"text": "choose|tokens(96)", "label": "index()"}},
        "model": {
            "name": "fuser",
            "encoders": {"text": {"name": "text_transformer", "vocab": 259, "width": 16, "depth": 1, "heads": 2}},
            "fusion": {"name": "concat"},
            "heads": {"label": {"size": 3}},
        },
        "objectives": {"label": {"name": "cross_entropy"}},
        "optimizer": {"name": "sgd", "momentum": 0.9, "schedule": "constant"},
        "mesh": {"data": 8, "fsdp_min_size": 64},
    }
    return changed(run, changes)


def two_towers(**changes):
    """The tests' contrastive run, of images that are files."""
    run = toy_config(data__source=ABSENT, mesh={"data": 8, "fsdp_min_size": 64})
    run["data"] |= {"batch_size": 64, "pp": {"image": "decode|resize(16)|flip_lr", "text": 'choose("en")|lower|tokens(24)'}}
    return changed(run, changes)


@pytest.fixture(autouse=True)
def settings():
    """What a program needs does not depend on how well it was compiled for this CPU."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_the_program_is_the_one_that_training_runs_and_its_needs_are_those_of_real_arrays():
    mesh = {"data": 2, "fsdp": 4}
    parts = ahead.planned(config(), mesh, ahead.devices_of(HERE, 8))
    step, shapes, spec = ahead.compiled(parts)
    real = parts_of(config(**{"data.source": {"name": "toy:Labelled"}, "mesh": {**mesh, "fsdp_min_size": 64}}))
    with jax.set_mesh(real.mesh):
        lies = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)  # noqa: E731
        assert lies(real.state_shapes()) == lies(shapes)
        batch = next(real.data.train_batches(real.mesh))
        assert lies(batch) == lies(spec)
        state = jax.tree.map(lambda x: jax.device_put(jnp.zeros(x.shape, x.dtype), x.sharding), shapes._replace(key=()))
        state = state._replace(key=jax.device_put(jax.random.key(0), shapes.key.sharding))
        needs = memory.kept(parts, shapes, spec)
        assert needs.parameters == on_device(state.params) and needs.optimizer == on_device(state.opt)
        assert needs.batches == (1 + 1 + real.data.prefetch) * on_device(batch)
        state, metrics = step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(np.log(3), rel=1e-3) and int(state.step) == 1
    assert needs.parameters < 0.5 * memory.kept(parts, *of_mesh({"data": 8})).parameters


def of_mesh(mesh):
    parts = ahead.planned(config(), mesh, None)
    with ahead.ambient(parts.mesh):
        return ahead.shapes_of(parts)


def on_device(tree):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


def test_examples_stand_in_where_operations_make_one_size_of_any_file():
    assert stands_in("image", "decode|resize(8)|flip_lr") and stands_in("image_depth", "decode_random_resized_crop(8)")
    assert stands_in("audio", 'choose("fr")|decode(8_000)|crop_or_pad(1)') and stands_in("text", "choose|tokens(8)")
    for stream, pp in {
        "image": "decode|flip_lr",
        "series": "window(8)",
        "value": "number()",
        "text": "lower()",
        "label": "index()",
    }.items():
        assert stands_in(stream, pp) == (stream == "label")
    sounds = {"audio": "decode(8_000)|crop_or_pad(0.5)", "image": "decode|resize(8)", "label": "index()"}
    data = parts_of(config(**{"data.pp": sounds, "data.source": {"name": "stand_in", "pp": sounds}})).data
    assert {stream: (spec.shape, spec.ragged) for stream, spec in data.spec.items()} == {
        "audio": ((4_000,), True),
        "image": ((8, 8, 3), False),
        "label": ((), False),
    }
    own = two_towers(**{"data.pp.image": "decode|flip_lr", "data.source": {"name": "toy:Toy"}})  # 8 x 8, says its data alone
    assert ahead.planned(own, {"data": 8}, None).batch_shapes()["image"][0] == (64, 8, 8, 3)


def test_estimates_have_the_state_exactly_and_activations_follow_the_batch_and_what_saves_memory():
    mesh = {"data": 2, "fsdp": 4}
    estimate = memory.estimated(config(), mesh)
    parts = ahead.planned(config(), mesh, None)
    assert estimate._replace(activations=0) == memory.kept(parts, *of_mesh(mesh))
    gradients = estimate.parameters  # all are trained
    activations = {
        name: (memory.estimated(config(**changes), mesh).activations - gradients) / memory.SCRATCH
        for name, changes in {
            "plain": {},
            "half": {"data.batch_size": 16},
            "accumulated": {"optimizer.accumulate": 2},
            "full": {"model.encoders.text.remat": "full"},
        }.items()
    }
    # A block keeps [rows, N, ...] of float32: what comes in, queries, keys, values, what is attended to, the logits of two heads,
    # what that and the MLP give, the MLP's hidden layer; and there are the embedding and two norms. Four rows on each device.
    block = 4 * 4 * 96 * (7 * 16 + 2 * 96 + 4 * 16)
    assert block < activations["plain"] < 1.6 * block
    assert activations["half"] == pytest.approx(activations["plain"] / 2, rel=0.05) == activations["accumulated"]
    assert activations["full"] < 0.6 * activations["plain"]


def test_what_does_not_fit_is_made_to_and_every_answer_is_compiled():
    lines = []
    devices = ahead.devices_of(HERE, 8)
    needs = memory.of_program(ahead.planned(config(), {"data": 8}, devices))
    small = HERE._replace(usable=needs.peak - needs.activations // 3)
    fit = Fit(config(), small, {"data": 8}, say=lines.append)
    found, (best, above) = suggestions(fit), largest_batch(fit)
    assert fit.ask().needs == needs and not fit.ask().fits and fit.how == COMPILED
    assert lines[0] == "Compilation 1: as it is ..." and fit.compilations == len(fit.asked) == len(lines) // 2
    assert {"optimizer.accumulate": 2} in [tried.changes for tried in found]
    assert all(tried.fits and tried.needs.peak <= small.usable and fit.ask(tried.changes, tried.mesh) == tried for tried in found)
    batch = best.changes["data.batch_size"]
    assert best.fits and batch < 32 and above == batch + 8 and not fit.ask({"data.batch_size": above}).fits


def test_levers_change_what_can_be_changed():
    fit = Fit(two_towers(), CHIPS["h100"], {"data": 8})
    base = fit.ask()
    assert fit.how == ESTIMATED and "here are none" in fit.why and not fit.compilations
    assert [step.mesh for step in sharded(fit, base)] == [{"data": 4, "fsdp": 2}, {"data": 2, "fsdp": 4}, {"data": 1, "fsdp": 8}]
    assert [step.changes for step in cut(fit, base)] == [{"optimizer.cache": 2}, {"optimizer.cache": 4}, {"optimizer.cache": 8}]
    assert [set(step.changes.values()) for step in rematerialised(fit, base)] == [{"dots"}, {"full"}]
    fit = Fit(config(**{"model.encoders.text.remat": "full", "optimizer.accumulate": 2}), CHIPS["h200"], {"data": 8})
    assert [step.changes for step in cut(fit, base)] == [{"optimizer.accumulate": 4}] and not list(rematerialised(fit, base))


def test_slices_meshes_and_flags():
    for chip in CHIPS.values():
        sizes = [math.prod(map(int, shape.split("x"))) for shape in chip.slices]
        assert sizes == sorted(set(sizes)) and all(chip.slice(size) == shape for size, shape in zip(sizes, chip.slices, strict=True))
        assert chip.usable < 1.01 * chip.memory and bool(chip.slices) == (chip.platform == "tpu")
    with pytest.raises(ConfigError, match="no slice of v5e has 24 chips: let the sizes multiply to one of 1, 4, 8, 16"):
        chip_of("v5e").slice(24)
    with pytest.raises(ConfigError, match="'v5' is unknown. Did you mean 'v5"):
        chip_of("v5")
    assert mesh_of("data=8, fsdp=32", config(), HERE) == {"data": 8, "fsdp": 32}
    assert mesh_of(None, config(mesh={"fsdp": 4}), chip_of("v5e")) == {"data": 2, "fsdp": 4}
    assert mesh_of(None, {}, chip_of("v5p")) == {"data": 4}
    for text, message in {"dta=8": "Did you mean 'data'", "data": "as in data=8", "data=-1": "'data=-1' should say how many"}.items():
        with pytest.raises(ConfigError, match=message):
            mesh_of(text, config(), HERE)
    assert flags({"optimizer.cache": 4}, {"data": 1, "fsdp": 8}) == [
        "--config.mesh.data=1",
        "--config.mesh.fsdp=8",
        "--config.optimizer.cache=4",
    ]
    with pytest.raises(ConfigError, match="does not split over 6 devices: take 30 or 36"):
        Fit(config(), CHIPS["h100"], {"data": 6})


def test_what_the_tpus_compiler_would_have_needed_is_read_from_its_message():
    early = "Ran out of memory on HBM, the total memory required for HLO temporaries (743.70G) exceeds available HBM (15.75G)."
    late = "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.50T of 15.75G hbm. Exceeded hbm capacity"
    assert memory.exhausted(f"RESOURCE_EXHAUSTED: {early}") == int(743.70 * 2**30)
    assert memory.exhausted(f"RESOURCE_EXHAUSTED: {late}") == int(18.5 * 2**40)
    assert memory.exhausted("INTERNAL: something else (3.00G)") is None


def test_without_a_compiler_for_the_chip_there_is_an_estimate(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fit = Fit(config(), chip_of("v5e"), {"data": 8})
    assert fit.how == ESTIMATED and "pip install -r requirements-tpu.txt" in fit.why and fit.ask().fits
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert memory.limit(CHIPS["h100"]) == int(0.9 * CHIPS["h100"].memory) and memory.limit(chip_of("v5e")) == chip_of("v5e").usable


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install -r requirements-tpu.txt")
def test_tpus_are_compiled_for_without_any():
    cached = jax.config.jax_enable_compilation_cache
    try:
        fit = Fit(config(), chip_of("v6e"), {"data": 2, "fsdp": 2}, say=lambda line: None)
        asked = fit.ask()
        assert fit.how == COMPILED and asked.fits and asked.needs.program > 0
        assert asked.needs[:5] == memory.estimated(config(), {"data": 2, "fsdp": 2})[:5]
        huge = fit.ask({"data.batch_size": 2**22})
        assert not huge.fits and huge.needs.peak > 1.5 * fit.limit
        assert isinstance(ahead.compiled_step(config(), chip_of("v5e"), {"data": 1}), jax.stages.Compiled)
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
