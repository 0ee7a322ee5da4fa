"""Checkpoints: what is kept, what fits, another number of devices, a full disk."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config import CheckpointError
from mmjax.train.build import parts_of
from mmjax.train.checkpoint import Checkpoints
from toy import toy_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def started():
    """A run's parts, the shapes of its state, and the state before the first step."""
    parts = parts_of(toy_config(optimizer__ema=0.9))
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        yield parts, shapes, parts.init(shapes, next(parts.data.train_batches(parts.mesh)))


def at(state, step):
    return state._replace(step=jnp.int32(step))


def test_the_newest_and_the_best_stay_and_come_back_whole(started, tmp_path):
    _, shapes, state = started
    checkpoints = Checkpoints(tmp_path, keep=2, best="score")
    for step, score in enumerate([0.1, 0.9, 0.3, 0.4, 0.2], start=1):
        checkpoints.save(at(state, step), {"data": "d"}, {"score": score})
    checkpoints.wait()
    assert checkpoints.steps == [2, 4, 5] and checkpoints.best_step == 2 and checkpoints.latest == 5
    restored = checkpoints.restore(4, shapes)
    assert int(restored.step) == 4 and checkpoints.meta(4)["data"] == "d"
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(restored._replace(step=0, key=0)), jax.device_get(state._replace(step=0, key=0))
    )
    assert jax.random.key_data(restored.key).tolist() == jax.random.key_data(state.key).tolist()
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=2, best="score")
    assert again.best_step == 2, "the metrics are read back"
    with pytest.raises(CheckpointError, match="no step 3. It has: 2, 4, 5"):
        again.restore(3, shapes)


def test_the_smallest_is_best_where_the_config_says_so(started, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, best="loss", best_mode="min")
    for step, loss in enumerate([3.0, 1.0, 2.0], start=1):
        checkpoints.save(at(started[2], step), {"data": "d"}, {"loss": loss})
    checkpoints.wait()
    assert checkpoints.steps == [2, 3] and checkpoints.best_step == 2


def test_another_architecture_is_named_array_by_array(started, tmp_path):
    _, _, state = started
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(state, 1), {"data": "d"})
    checkpoints.wait()
    other = parts_of(toy_config(model__width=4, model__encoders__image__depth=2, optimizer__ema=0.9))
    with jax.set_mesh(other.mesh), pytest.raises(CheckpointError) as error:
        checkpoints.restore(1, other.state_shapes())
    assert "another architecture" in str(error.value)
    assert "missing params/model/image/transformer/block_01" in str(error.value)
    wide = parts_of(toy_config(model__width=4, optimizer__ema=0.9))
    with jax.set_mesh(wide.mesh), pytest.raises(CheckpointError, match=r"image_projection/kernel is \(16, 8\), not \(16, 4\)"):
        checkpoints.restore(1, wide.state_shapes())


def test_a_state_of_eight_devices_goes_on_under_another_sharding(started, tmp_path):
    _, _, state = started
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(state, 1), {"data": "d"})
    checkpoints.wait()
    other = parts_of(toy_config(mesh={"data": 2, "fsdp": 4, "fsdp_min_size": 64}, optimizer__ema=0.9))
    with jax.set_mesh(other.mesh):
        restored = checkpoints.restore(1, other.state_shapes())
    kernel = restored.params["model"]["image"]["transformer"]["block_00"]["mlp"]["in"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored.params), jax.device_get(state.params))


def test_damaged_files_are_one_line(started, tmp_path):
    _, shapes, state = started
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(state, 1), {"data": "d"})
    checkpoints.close()
    for path in (tmp_path / "step_1" / "params").rglob("*"):
        if path.is_file() and path.stat().st_size > 500 and "d" in path.parts:
            path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoints(tmp_path).restore(1, shapes)
    for path in (tmp_path / "step_1" / "meta").rglob("*metadata*"):
        path.write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot be read.*It is the only step there"):
        Checkpoints(tmp_path).meta(1)


FULL_DISK = """
import json, resource, sys
sys.path.insert(0, "tests")
import conftest
from toy import toy_config
from mmjax.config import UserError
from mmjax.train.loop import train
config = toy_config(**json.loads(sys.argv[2]))
if sys.argv[3] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    train(config, sys.argv[1])
except UserError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    """No file may grow beyond a limit that the kernel enforces: a real failure of a real write."""
    workdir = tmp_path / "run"

    def run(steps, limit):
        wide = {"steps": steps, "model__encoders__text__width": 64, "evals": {}}
        command = [sys.executable, "-c", FULL_DISK, str(workdir), json.dumps(wide), str(limit)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)

    good = run(2, 0)
    assert good.returncode == 0, good.stderr
    full = run(4, 60_000)
    assert full.stdout.startswith("CheckpointError A checkpoint could not be written"), full.stdout + full.stderr
    assert "The last good one is step 2" in full.stdout
    assert Checkpoints(workdir / "checkpoints").steps == [2]
    assert json.loads((workdir / "config.json").read_text())["steps"] in (2, 4)
    again = run(4, 0)
    assert again.returncode == 0 and again.stdout == "", again.stdout + again.stderr
    assert json.loads((workdir / "results.json").read_text())["step"] == 4
