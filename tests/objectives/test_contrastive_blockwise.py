"""Contrastive losses without the logits of all pairs, on one device and on meshes of eight, against those with them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from objectives import start, value_and_grads

from checks import quick
from mmjax.config import ConfigError
from mmjax.contract import BATCH_AXES, MESH_AXES
from mmjax.objectives.contrastive import Contrastive
from mmjax.ops.masks import unit
from mmjax.testing import objectives

ROWS, WIDTH, CHUNK = 32, 4, 3  # a device has 4 rows of a mesh of 8: a chunk and a part of one
PAIR = (("image", "text"),)
STREAMS = ("audio", "image", "text")
MESHES = {"one device": None, "data=8": (8, 1, 1, 1), "data=2, fsdp=4": (2, 4, 1, 1), "data=2, fsdp=2, tensor=2": (2, 2, 1, 2)}


def mesh_of(name):
    return MESHES[name] and jax.make_mesh(MESHES[name], MESH_AXES, (AxisType.Auto,) * len(MESH_AXES))


@cache
def given():
    """(outputs, batch): three to a key, rows without a positive, missing sides that are NaN, a device without a pair, equal columns."""
    rng, row = np.random.default_rng(0), np.arange(ROWS)
    here = {"audio": row % 5 != 1, "image": row != 17, "text": (row > 3) & (row % 7 != 2)}
    z = {m: np.array(unit(jnp.asarray(rng.normal(size=(ROWS, WIDTH)), jnp.float32))) for m in STREAMS}
    z["text"][[9, 20, 29]] = z["text"][5]
    batch = {f"{m}/present": jnp.asarray(v) for m, v in here.items()}
    batch |= {f"{m}/key": jnp.asarray(row // 3 + 100 * (row % 11 == 10) * i, jnp.int32) for i, m in enumerate(STREAMS)}
    outputs = {f"{m}/z": jnp.asarray(np.where(here[m][:, None], z[m], np.nan)) for m in STREAMS}
    return outputs, {**batch, **{m: jnp.zeros((ROWS, WIDTH)) for m in STREAMS}}


@cache
def found(pairs, loss, logits="dense", mesh="one device"):
    """((total, loss), gradients), and the program."""
    objective, (outputs, batch), placed = Contrastive(pairs, loss=loss, logits=logits, chunk=CHUNK), given(), mesh_of(mesh)
    args = start(objective, batch | {m: outputs[f"{m}/z"] for m in STREAMS})[0], outputs, batch
    if placed is None:
        program = quick(value_and_grads(objective)).lower(*args).compile()
        return jax.device_get(program(*args)), program.as_text()
    with jax.set_mesh(placed):
        args = args[0], *jax.device_put(args[1:], NamedSharding(placed, PartitionSpec(BATCH_AXES)))
        program = quick(value_and_grads(objective)).lower(*args).compile()
        return jax.device_get(program(*args)), program.as_text()


def assert_within(got, wanted, tolerance=1e-6):
    """Of the largest number of each array."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(np.abs(b).max(), 1e-30)), got, wanted)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("pairs", "logits", "mesh"),
    [
        ("hub:image", "chunked", "one device"),
        (PAIR, "chunked", "data=2, fsdp=2, tensor=2"),
        (PAIR, "ring", "data=8"),
        (PAIR, "ring", "data=2, fsdp=2, tensor=2"),
        ("all", "ring", "data=2, fsdp=4"),
    ],
)
def test_loss_metrics_and_gradients_are_those_of_dense_logits(loss, pairs, logits, mesh):
    wanted, got = (found(pairs, loss, *how)[0] for how in ((), (logits, mesh)))
    assert_within(got, wanted)
    for m in {m for term in got[0][1].terms for m in term.split("_")}:
        absent = ~np.asarray(given()[1][f"{m}/present"])
        assert (got[1][1][f"{m}/z"][absent] == 0).all() and (got[1][1][f"{m}/z"][~absent] != 0).any()


def sizes(jaxpr):
    """Of every array that a program makes, whatever it is nested in."""
    for eqn in jaxpr.eqns:
        yield from (var.aval.size for var in eqn.outvars if hasattr(var.aval, "size"))
        for inner in jaxprs_in_params(eqn.params):
            yield from sizes(inner)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_no_array_holds_all_pairs(loss):
    outputs, batch = given()

    def largest(**how):
        objective = Contrastive(PAIR, loss=loss, **how)
        return max(sizes(jax.make_jaxpr(value_and_grads(objective))(start(objective, batch)[0], outputs, batch).jaxpr))

    assert largest() == ROWS * ROWS
    columns = (ROWS + CHUNK) * max(WIDTH, CHUNK)  # all embeddings, the last chunk filled up; or all rows and one chunk
    assert largest(logits="chunked", chunk=CHUNK) <= columns
    with jax.set_mesh(mesh_of("data=8")):
        assert largest(logits="chunked", chunk=CHUNK) <= columns
        assert largest(logits="ring", chunk=CHUNK) <= columns


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_device_has_the_logits_of_its_own_rows_and_the_ring_never_gathers(loss):
    chunked, ring = (found(PAIR, loss, logits, "data=2, fsdp=2, tensor=2")[1] for logits in ("chunked", "ring"))
    for program in (chunked, ring):
        assert f"[{ROWS // 4},{CHUNK}]" in program and f"[{ROWS},{CHUNK}]" not in program and f"[{CHUNK},{ROWS}]" not in program
    assert "all-gather" in chunked
    assert "collective-permute" in ring and "all-gather" not in ring and "all-to-all" not in ring


@pytest.mark.parametrize("logits", ["dense", "chunked", "ring"])
def test_of_equal_candidates_the_first_that_counts_is_the_nearest(logits):
    keys, here = np.array([0, 1, 1, 2, 1, 0, 0, 0], np.int32), np.arange(8) > 0
    batch = {m: jnp.ones((8, 2)) for m in PAIR[0]} | {f"{m}/key": jnp.asarray(keys) for m in PAIR[0]}
    objective = Contrastive(PAIR, logits=logits, chunk=2)
    with jax.set_mesh(mesh_of("data=2, fsdp=4")):
        outputs = {f"{m}/z": batch[m] for m in PAIR[0]}
        _, loss = quick(value_and_grads(objective))(start(objective, batch)[0], outputs, {**batch, "text/present": jnp.asarray(here)})[0]
    np.testing.assert_allclose(loss.metrics["image_text/accuracy"], 3 / 7)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("check", [objectives.check_extreme_inputs, objectives.check_absent_rows], ids=lambda check: check.__name__)
def test_as_every_objective(loss, check):
    check(subject(loss))


@cache
def subject(loss):
    return objectives.ObjectiveSubject(Contrastive(PAIR, loss=loss, logits="chunked", chunk=3), Contrastive.tiny()[1])


def test_wrong_values():
    with pytest.raises(ConfigError, match="logits='chunk' is unknown. Did you mean 'chunked'"):
        Contrastive("all", logits="chunk")
    for chunk in (0, -1):
        with pytest.raises(ConfigError, match=f"chunk={chunk} should be a positive number"):
            Contrastive("all", logits="chunked", chunk=chunk)
    objective, batch = Contrastive("all", logits="ring"), {m: jnp.ones((6, 2)) for m in PAIR[0]}
    with jax.set_mesh(mesh_of("data=2, fsdp=4")), pytest.raises(ConfigError, match="splits over 8 devices, not 6 rows"):
        value_and_grads(objective)(start(objective, batch)[0], {f"{m}/z": batch[m] for m in batch}, batch)
