"""AFF and iAFF against their authors' code; an average of what is there, in which one modality can win everywhere."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax import config
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.aff import AFF
from torch_weights import weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_attention.npz")
IDENTITY = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}


def context(w, sequence, convolutions, names):
    """Parameters and statistics of a 1x1 convolution, its norm, and both again: the convolution's bias goes into the norm's mean."""
    params, stats = {}, {}
    for number, (dense, norm) in zip(convolutions, names, strict=True):
        layer, bn = f"{sequence}.{number}", f"{sequence}.{number + 1}"
        params[dense] = {"kernel": w[f"{layer}.weight"][:, :, 0, 0].T}
        params[norm] = {"batch": {"scale": w[f"{bn}.weight"], "bias": w[f"{bn}.bias"]}}
        stats[norm] = {"batch": {"mean": w[f"{bn}.running_mean"] - w[f"{layer}.bias"], "var": w[f"{bn}.running_var"]}}
    return params, stats


@pytest.mark.parametrize("case", ["aff", "iaff"])
def test_is_the_authors(case):
    """Their AFF doubles the result; in their iAFF the second round has the first one's global context."""
    w = weights(GOLDEN, case)
    rounds = [("local_att", "global_att"), ("local_att2", "global_att")][: 1 + (case == "iaff")]
    variables = {"params": {"a_in": IDENTITY, "b_in": IDENTITY}, "batch_stats": {}}
    for i, sequences in enumerate(rounds):
        for scope, sequence, convolutions in zip(("local", "global"), sequences, ((0, 3), (1, 4)), strict=True):
            names = (f"{scope}_in_{i}", f"{scope}_norm_{i}"), (f"b_{scope}_out_{i}", f"b_{scope}_norm_{i}")
            for collection, found in zip(variables.values(), context(w, sequence, convolutions, names), strict=True):
                collection |= found
    given = {}
    for ours, theirs in (("a", "y"), ("b", "x")):  # their gate is x's
        x = jnp.pad(jnp.asarray(GOLDEN[f"{case}/{theirs}"])[:, :, 0].swapaxes(1, 2), ((0, 0), (0, 2), (0, 0)), constant_values=jnp.nan)
        valid = jnp.broadcast_to(jnp.arange(5) < 3, x.shape[:2])
        given[ours] = Encoding(x, valid, x[:, 0], valid[:, 0])
    module = config.build("fusion", {"name": "aff", "variant": case, "width": 4, "ratio": 2}, "fusion")
    wanted = GOLDEN[f"{case}/out"][:, :, 0].swapaxes(1, 2) / (2 if case == "aff" else 1)
    np.testing.assert_allclose(fused(module, variables, given).tokens[:, :3], wanted, atol=1e-5)


def made(module, given, **changed):
    variables = checks.drawn(module, given, train=False)
    variables["params"] |= {f"{m}_in": IDENTITY for m in given} | changed
    return fused(module, variables, given)


def test_weights_add_up_to_1_over_who_is_there():
    """What is the same in all modalities comes out as it is, and alone a modality passes."""
    given = {m: encodings(text=(3, 4))["text"] for m in ("audio", "image", "text")}
    given["audio"] = given["audio"]._replace(present=jnp.arange(3) != 1)
    for names in (("audio", "image", "text"), ("text",)):
        got = made(AFF(main="text", width=4, rounds=2), {m: given[m] for m in names})
        valid = np.asarray(given["text"].valid)
        np.testing.assert_allclose(got.tokens[:, :3][valid], given["text"].tokens[valid], atol=1e-5)


def test_a_large_score_takes_all_and_without_the_main_modality_there_is_one_place():
    given = encodings(image=(5, 4), text=(3, 4))
    given["text"] = given["text"]._replace(present=jnp.arange(3) != 0, time=None)  # by place
    certain = {"batch": {"scale": jnp.zeros(4), "bias": jnp.full(4, 99.0)}}
    got = made(AFF(main="text", width=4), given, image_local_norm_0=certain)
    np.testing.assert_array_equal(got.valid[0], [False, False, False, True])
    image = np.asarray(given["image"].tokens)[0][np.asarray(given["image"].valid)[0]]
    np.testing.assert_allclose(got.tokens[0, 3], image.mean(axis=0), atol=1e-5)
    for row in (1, 2):
        places = [np.asarray(given[m].valid[row]).sum() for m in ("text", "image")]
        nearest = np.abs((np.arange(places[0]) + 0.5)[:, None] / places[0] - (np.arange(places[1]) + 0.5) / places[1]).argmin(axis=0)
        for i in set(nearest):
            mean = np.asarray(given["image"].tokens)[row, : places[1]][nearest == i].mean(axis=0)
            np.testing.assert_allclose(got.tokens[row, i], mean, atol=1e-5)


def test_a_bottleneck_of_nothing():
    with pytest.raises(ConfigError, match="ratio=9 from 1 to width=8"):
        AFF(width=8, ratio=9).init({}, encodings(text=(3, 4)), train=False)
