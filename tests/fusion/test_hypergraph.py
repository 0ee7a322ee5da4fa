"""Hypergraph fusion against its authors' convolution; what a hyperedge joins; limiting weights."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

import checks
from made import encodings, fused
from mmjax.contract import Encoding
from mmjax.fusion.hypergraph import Hypergraph, hypergraph_mean
from torch_weights import weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_time.npz")
TIME = {"a": [[0.0, 5.0, np.nan]], "b": [[1.0, 2.0, 4.0]]}  # in windows 0 1 and 0 0 1


def identity(width):
    return {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}


def golden_input():
    given = {}
    for i, m in enumerate("ab"):
        x = jnp.asarray(GOLDEN["hgnn/x"])[None, GOLDEN["hgnn/modality"] == i]
        x = jnp.pad(x, ((0, 0), (0, 3 - x.shape[1]), (0, 0)), constant_values=jnp.nan)
        time = jnp.asarray(TIME[m], jnp.float32)
        given[m] = Encoding(x, ~jnp.isnan(time), x[:, 0], jnp.ones(1, bool), time)
    return given


def test_is_the_authors_convolution():
    """With the hyperedge of modality a there twice, which is a weight of 2."""
    w = weights(GOLDEN, "hgnn")
    params = {f"layer_{i:02d}": {"kernel": w[f"hgc{i + 1}.weight"], "bias": w[f"hgc{i + 1}.bias"]} for i in range(2)}
    params |= {"a_in": identity(4), "b_in": identity(4), "window_log_weight": jnp.zeros(1)}
    params["modality_log_weight"] = jnp.log(jnp.asarray([2.0, 1.0]))
    got = fused(Hypergraph(4, windows=2), {"params": params}, golden_input())
    np.testing.assert_allclose(got.tokens[got.valid], GOLDEN["hgnn/y"], atol=1e-5)


def test_what_comes_in_goes_out():
    """The matrix is symmetric and has the square roots of the degrees as an eigenvector of eigenvalue 1, as a normalised Laplacian's."""
    rng = np.random.default_rng(0)
    incidence = (rng.random((2, 6, 4)) < 0.5).astype(np.float32)
    incidence[:, :, 0], incidence[1, 2] = 1, 0  # one node of no hyperedge
    weight = rng.random(4).astype(np.float32) + 0.5
    matrix = checks.quick(hypergraph_mean)(jnp.broadcast_to(jnp.eye(6), (2, 6, 6)), incidence, weight)
    np.testing.assert_allclose(matrix, matrix.swapaxes(1, 2), atol=1e-6)
    root = np.sqrt(incidence @ weight)
    np.testing.assert_allclose(np.einsum("bij,bj->bi", matrix, root), root, atol=1e-5)
    assert not matrix[1, 2].any()


def test_tokens_meet_in_their_window_or_modality():
    """With next to no weight on modalities a token hears only of its window, and with next to none on windows of its modality."""
    given = golden_input()
    module = Hypergraph(4, depth=1, windows=2)
    params = checks.drawn(module, given, train=False)["params"] | {"layer_00": {"kernel": jnp.eye(4), "bias": jnp.full(4, 9.0)}}
    run = checks.quick(lambda params, given: module.apply({"params": params}, given, train=False).tokens[0])
    for on_modalities, on_windows, near, far in ((-30.0, 0.0, (0, 3, 4), (1, 5)), (0.0, -30.0, (0, 1), (3, 4, 5))):
        weighted = {"modality_log_weight": jnp.full(2, on_modalities), "window_log_weight": jnp.full(1, on_windows)}
        start = with_first(given, given["a"].tokens[0, 0] + 1.0)
        moved = np.abs(np.asarray(run({**params, **weighted}, start) - run({**params, **weighted}, given))).max(axis=1)
        assert (moved[list(near)] > 1e-2).all() and moved[list(far)].max() < 1e-4


def with_first(given, x):
    return {**given, "a": given["a"]._replace(tokens=given["a"].tokens.at[0, 0].set(x))}


def test_without_times_windows_are_of_equal_shares_of_the_tokens():
    given = encodings(audio=(6, 3), text=(3, 2))
    module = Hypergraph(4, windows=3)
    variables = checks.drawn(module, given, train=False)
    bare = {m: e._replace(time=None, valid=jnp.ones_like(e.valid)) for m, e in given.items()}
    even = {m: e._replace(time=jnp.broadcast_to(jnp.linspace(3.0, 7.0, e.valid.shape[1]), e.valid.shape)) for m, e in bare.items()}
    np.testing.assert_allclose(fused(module, variables, bare).tokens, fused(module, variables, even).tokens, atol=1e-5)
