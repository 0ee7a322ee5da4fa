"""The gate against its authors' code; it moves each token by what is nearest to it, and no further than it may."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.mag import MAG
from mmjax.ops.masks import masked_mean
from torch_weights import dense, norm, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_attention.npz")


def standardised(x):
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)


def test_is_the_authors_whatever_pads_the_sequences():
    w = weights(GOLDEN, "mag")
    params = {"text_in": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}, "stand_in": {"tokens": jnp.zeros((1, 1, 4))}}
    for m, letter in (("audio", "a"), ("video", "v")):
        params |= {f"{m}_gate": dense(w, f"W_h{letter}"), f"{m}_shift": dense(w, f"W_{letter}")}
    params |= {"gate_norm": norm(w, "LayerNorm"), "transformer": {"norm": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}}
    given = {}
    for i, (m, theirs) in enumerate((("audio", "acoustic"), ("text", "text"), ("video", "visual"))):
        x = jnp.pad(jnp.asarray(GOLDEN[f"mag/{theirs}"]), ((0, 0), (0, i), (0, 0)), constant_values=jnp.nan)
        valid = jnp.broadcast_to(jnp.arange(3 + i) < 3, x.shape[:2])
        given[m] = Encoding(x, valid, x[:, 0], valid[:, 0])
    got = fused(MAG(main="text", width=4, depth=0, beta=0.7, heads=1), {"params": params}, given)
    np.testing.assert_allclose(got.tokens[:, :3], standardised(GOLDEN["mag/out"]), atol=1e-5)


def test_a_token_is_moved_by_what_is_nearest_in_time_and_little_by_little_not_at_all():
    given = encodings(audio=(5, 6), text=(3, 4))
    given = {m: e._replace(valid=jnp.ones_like(e.valid)) for m, e in given.items()}
    given["audio"] = given["audio"]._replace(time=jnp.tile(jnp.array([0.0, 0.9, 1.1, 1.9, 2.2]), (3, 1)))
    given["text"] = given["text"]._replace(time=jnp.tile(jnp.arange(3.0), (3, 1)))
    module = MAG(main="text", width=4, depth=0, heads=1)
    variables = checks.drawn(module, given, train=False)
    audio = given["audio"]
    moved = fused(module, variables, {**given, "audio": audio._replace(tokens=audio.tokens.at[:, 3].add(1.0))})
    change = np.abs(moved.tokens - fused(module, variables, given).tokens).max(axis=2)
    np.testing.assert_array_equal(change > 1e-3, np.tile([False, False, True, False], (3, 1)))
    small = fused(MAG(main="text", width=4, depth=0, beta=1e-7, heads=1), variables, given)
    np.testing.assert_allclose(small.tokens, fused(module, variables, {"text": given["text"]}).tokens, atol=1e-5)


def test_it_is_behind_a_stage_and_a_row_without_the_main_modality_has_one_token():
    given = encodings(audio=(5, 6), text=(3, 4))
    given["text"] = given["text"]._replace(present=jnp.arange(3) != 0)
    module = MAG(main="text", stage=0, width=4, depth=1, heads=1)
    variables = checks.drawn(module, given, train=False)
    got = fused(module, variables, given)
    assert got.tokens.shape == (3, 7, 4), "the lower stage has twice as many tokens"
    np.testing.assert_array_equal(got.valid[0], [False] * 6 + [True])
    audio = given["audio"]
    even = audio.tokens.at[0].set(masked_mean(audio.tokens, audio.valid)[0])
    same = fused(module, variables, {**given, "audio": audio._replace(tokens=even)})
    np.testing.assert_allclose(same.pooled[0], got.pooled[0], atol=1e-5)


def test_no_shift_at_all():
    with pytest.raises(ConfigError, match="beta=0 should be above 0"):
        MAG(beta=0).init(jax.random.key(0), encodings(text=(3, 4)), train=False)
