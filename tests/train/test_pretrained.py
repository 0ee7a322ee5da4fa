"""Parts of a model from another run: what is copied, what is frozen, when, and what is said where it does not fit."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from mmjax.config import CheckpointError, ConfigError
from mmjax.train.build import parts_of
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.loop import train
from mmjax.train.pretrained import load_parts, with_parts
from mmjax.weights import _files
from toy import toy_config

RESNET = {"name": "resnet", "width": 4, "depths": [1], "norm": "batch", "stem": "small"}
PARTS = ("image", "image_projection", "text", "text_projection")


def config(**changes):
    constant = {"optimizer__schedule": "constant", "optimizer__warmup": 0}  # the same program whatever the number of steps
    shallow = {f"model__encoders__{stream}__depth": 0 for stream in ("image", "text") if f"model__encoders__{stream}" not in changes}
    return toy_config(**{"evals": {}, "steps": 1, "checkpoint__keep": 9, "checkpoint__every": 1, **constant, **shallow, **changes})


def shapes_of(parts):
    with jax.set_mesh(parts.mesh):
        return parts.state_shapes()


def drawn(shapes, seed=0):
    """A state of random numbers, without the time to compile its own initialisation."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(draw, shapes)


def finished(workdir, config):
    """A run folder with a checkpoint, as training leaves it, and the state in it."""
    parts = parts_of(config, workdir)
    state = drawn(shapes_of(parts), seed=7)._replace(step=np.int32(5))
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(state, {"data": "d"})
    checkpoints.close()
    (workdir / "config.json").write_text(json.dumps(parts.config))
    return state


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    return workdir, finished(workdir, config(optimizer__ema=0.9))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def stored(workdir, item, step):
    import orbax.checkpoint as ocp

    return ocp.StandardCheckpointer().restore((workdir / "checkpoints" / f"step_{step}" / item).absolute())


def test_a_locked_tower_stays_as_it_came_and_a_resumed_run_needs_the_other_no_more(averaged, tmp_path, capsys):
    run, state = tmp_path / "pretrained", averaged[1]
    shutil.copytree(averaged[0], run)
    locked = {"init_from": {"image": str(run)}, "optimizer__rules": [("model/image/.*", {"freeze": True}), (".*", {})]}
    train(config(**locked), tmp_path / "run")
    assert f"from the start, image from {run}" in capsys.readouterr().err
    shutil.rmtree(run)
    train(config(**locked, steps=2), tmp_path / "run")

    first, last = (stored(tmp_path / "run", "params", step)["model"] for step in (1, 2))
    assert same(first["image"], state.ema["model"]["image"]) and same(last["image"], first["image"])
    assert all(not same(first[part], last[part]) for part in PARTS[1:]), "the rest learns"
    shapes = {x.shape for x in jax.tree.leaves(stored(tmp_path / "run", "opt", 2))}
    assert (48, 16) not in shapes and (259, 16) in shapes, "the optimizer keeps nothing for the patches' embedding"


def test_the_parts_named_are_copied_also_into_the_average_and_the_others_are_not(averaged):
    run, source = averaged
    parts = parts_of(config(init_from=dict.fromkeys(PARTS[:3], str(run)), optimizer__ema=0.5))
    shapes = shapes_of(parts)
    new = drawn(shapes)
    got = with_parts(new, load_parts(parts, shapes))
    for part in PARTS:
        wanted = (new.params if part == "text_projection" else source.ema)["model"][part]
        assert same(got.params["model"][part], wanted)
    assert same(got.ema["model"]["text"], source.ema["model"]["text"]) and same(got.params["contrastive"], new.params["contrastive"])
    assert got.ema["model"]["text"]["positions"] is not got.params["model"]["text"]["positions"], "a step gives both back to be reused"


def test_statistics_come_along_and_another_sharding_is_no_matter(tmp_path):
    source = finished(tmp_path / "run", config(model__encoders__image=RESNET))
    mesh = {"data": 2, "fsdp": 4, "fsdp_min_size": 64}
    parts = parts_of(config(model__encoders__image=RESNET, init_from={"image": str(tmp_path / "run")}, mesh=mesh))
    shapes = shapes_of(parts)
    got = with_parts(drawn(shapes), load_parts(parts, shapes))
    assert same(got.stats, source.stats) and jax.tree.leaves(got.stats)
    assert same(got.params["model"]["image"], source.params["model"]["image"])
    kernel = got.params["model"]["image"]["stage_0_block_00"]["conv_2"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": {"image": "nowhere"}}, "init_from.image: nowhere holds no run: there is no nowhere/config.json"),
        ({"init_from": "nowhere"}, "init_from='nowhere' should say which part of the model is of which run"),
        ({"init_from": {"image": 3}}, "should say which part of the model is of which run"),
        ({"init_form": {"image": "nowhere"}}, "config.init_form is unknown. Did you mean 'init_from'"),
    ],
)
def test_what_is_wrong_is_said_before_data_is_read(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr("mmjax.data.loader.Data.source", lambda *a: pytest.fail("data was read"))
    with pytest.raises(ConfigError, match=message):
        train(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_checkpoint(averaged, tmp_path):
    (tmp_path / "young").mkdir()
    shutil.copy(averaged[0] / "config.json", tmp_path / "young")
    with pytest.raises(ConfigError, match="init_from.image: .*young has no checkpoint yet"):
        train(config(init_from={"image": str(tmp_path / "young")}), tmp_path / "run")


def test_what_does_not_fit_is_named(averaged):
    def load(part, **changes):
        parts = parts_of(config(init_from={part: str(averaged[0])}, **changes))
        return load_parts(parts, shapes_of(parts))

    with pytest.raises(ConfigError, match="init_from.imag: the model has no such part. Did you mean 'image'"):
        load("imag")
    with pytest.raises(CheckpointError) as error:
        load("image", model__encoders__image__width=32)
    assert str(averaged[0]) in str(error.value) and "model/image/embedding/kernel is (48, 16), not (48, 32)" in str(error.value)
    with pytest.raises(CheckpointError, match="missing ema/model/image/stage_0_block_00"):
        load("image", model__encoders__image=RESNET)
    with pytest.raises(ConfigError, match="init_from.text: the tokens of .* are others than this run's"):
        load("text", data__tokenizer={"name": "bpe", "vocab": 300}, model__encoders__text__vocab=300)


def test_an_encoder_sees_its_input_as_it_was_fitted_where_it_was_trained(tmp_path):
    fits = {"data__batch_pp": {"image": "normalise"}}
    source = finished(tmp_path / "run", config(**fits))
    parts = parts_of(config(init_from={"image": str(tmp_path / "run")}, **fits))
    shapes = shapes_of(parts)
    got = with_parts(drawn(shapes), load_parts(parts, shapes))
    assert same(got.fitted, source.fitted) and jax.tree.map(np.shape, got.fitted) == {"image": {"0_normalise": {"mean": (3,), "std": (3,)}}}

    parts = parts_of(config(init_from={"text": str(tmp_path / "run")}, **fits))
    new = drawn(shapes, seed=1)
    assert same(with_parts(new, load_parts(parts, shapes)).fitted, new.fitted), "nothing of it came from there"
    finished(tmp_path / "without", config())
    parts = parts_of(config(init_from={"image": str(tmp_path / "without")}, **fits))
    with pytest.raises(CheckpointError, match="missing fitted/image/0_normalise/mean"):
        load_parts(parts, shapes)


def test_a_teachers_weights_come_from_its_run(tmp_path):
    """Whole, with the statistics of its norms, beside a student of another shape."""
    large = config(model__encoders__image=RESNET)
    state = finished(tmp_path / "large", large)
    taught = {"name": "teacher", "model": large["model"], "features": ["image/z"], "affinities": [("image", "text")]}
    parts = parts_of(config(objectives={"teacher": taught}, init_from={"teacher": str(tmp_path / "large")}))
    shapes = shapes_of(parts)
    assert "teacher" not in shapes.params, "both embed in one width: there is no matrix, and nothing of the teacher is trained"
    with jax.set_mesh(parts.mesh):
        found = with_parts(drawn(shapes), load_parts(parts, shapes))
    assert same(found.aux["teacher"], {"params": state.params["model"], **state.stats})
    assert same(found.params, drawn(shapes).params), "the student begins as it would"


def test_a_teacher_without_weights_or_of_another_size(averaged):
    taught = {"name": "teacher", "model": config()["model"], "features": ["image/z"]}
    parts = parts_of(config(objectives={"teacher": taught}))
    with pytest.raises(ConfigError, match=r"objectives.teacher: a teacher that was never taught. init_from.teacher=..."):
        load_parts(parts, shapes_of(parts))
    other = config(model__encoders__image__width=8)["model"]
    parts = parts_of(config(objectives={"teacher": {**taught, "model": other}}, init_from={"teacher": str(averaged[0])}))
    with pytest.raises(CheckpointError, match="of another architecture.*model/image"):
        load_parts(parts, shapes_of(parts))


def test_a_checkpoint_of_several_parts_is_read_once(monkeypatch):
    file = Path(__file__).parents[1] / "golden" / "weights" / "clip.safetensors"
    small = {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "activation": "quick_gelu", "norm_epsilon": 1e-5}
    eyes = {"name": "vit", "patch": 4, "pool": "class", "class_position": True, "pre_norm": True, "patch_bias": False, **small}
    words = {"name": "text_transformer", "vocab": 300, **small}
    clip = {"name": "clip", "path": str(file)}
    parts = parts_of(config(model__encoders={"image": eyes, "text": words}, init_from={"image": clip, "image_projection": dict(clip)}))
    read, reads = _files.read, []
    monkeypatch.setattr(_files, "read", lambda path: reads.append(path) or read(path))
    assert set(load_parts(parts, shapes_of(parts))["params"]) == {"image", "image_projection"} and reads == [str(file)]
