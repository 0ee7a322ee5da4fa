"""wav2vec 2.0 against transformers', and where padding makes them differ."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

import checks
from mmjax.config import ConfigError
from mmjax.encoders.wav2vec import STABLE, Wav2vec, standardised
from torch_weights import dense, norm, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "audio.npz")
VALID = jnp.asarray(np.arange(90) < np.array([90, 55])[:, None])
KINDS = {"base": {}, "stable": STABLE}


def encoder(kind, **changes):
    convs = ((8, 6, 3), (8, 3, 2), (8, 2, 2))
    small = {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "convs": convs, "position_size": 6, "position_groups": 2}
    return Wav2vec(**{**small, "normalise": False, **KINDS[kind], **changes})


def torchs(kind):
    w = weights(GOLDEN, f"wav2vec_{kind}")

    def block(name):
        parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
        feed = f"{name}.feed_forward"
        return {
            "attention": {ours: dense(w, f"{name}.attention.{theirs}") for ours, theirs in parts.items()},
            "mlp": {"in": dense(w, f"{feed}.intermediate_dense"), "out": dense(w, f"{feed}.output_dense")},
            "norm_1": norm(w, f"{name}.layer_norm"),
            "norm_2": norm(w, f"{name}.final_layer_norm"),
        }

    params = {}
    for i in range(3):
        name = f"feature_extractor.conv_layers.{i}"
        bias = {"bias": w[f"{name}.conv.bias"]} if kind == "stable" else {}
        params[f"conv_{i}"] = {"kernel": rearrange(w[f"{name}.conv.weight"], "o i k -> k i o"), **bias}
        if kind == "stable":
            params[f"norm_{i}"] = norm(w, f"{name}.layer_norm")
        elif i == 0:
            params["norm_0"] = {"instance": norm(w, f"{name}.layer_norm")}
    conv = "encoder.pos_conv_embed.conv"
    scale, kernel = (rearrange(w[f"{conv}.parametrizations.weight.original{i}"], "o i k -> k i o") for i in range(2))
    blocks = {f"block_0{i}": block(f"encoder.layers.{i}") for i in range(2)}
    return params | {
        "features_norm": norm(w, "feature_projection.layer_norm"),
        "projection": dense(w, "feature_projection.projection"),
        "positions": {"kernel": kernel, "scale": scale, "bias": w[f"{conv}.bias"]},
        "transformer": {**blocks, "norm": norm(w, "encoder.layer_norm")},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_unpadded_it_is_transformers_and_padded_where_the_norm_is_a_steps_own(kind):
    module, params, x = encoder(kind), torchs(kind), jnp.asarray(GOLDEN[f"wav2vec_{kind}/x"])
    run = checks.quick(lambda x, valid: module.apply({"params": params}, x, valid, train=False))
    np.testing.assert_allclose(run(x, jnp.ones_like(VALID)).tokens, GOLDEN[f"wav2vec_{kind}/y"], atol=2e-5)
    e = run(x.at[1, 55:].set(jnp.nan), VALID)
    assert e.valid.sum(axis=1).tolist() == [7, 4]  # (samples - 18) // 12 + 1
    differs = np.abs(np.asarray(e.tokens - GOLDEN[f"wav2vec_{kind}/padded"]))[np.asarray(e.valid)].max()
    assert differs < 2e-5 if kind == "stable" else differs > 1e-2


def test_a_ragged_row_gives_what_it_gives_alone():
    module, params, x = encoder("base", normalise=True), torchs("base"), jnp.asarray(GOLDEN["wav2vec_base/x"])
    padded = checks.quick(lambda x: module.apply({"params": params}, x, VALID, train=False))(x.at[1, 55:].set(1e4))
    alone = checks.quick(lambda x: module.apply({"params": params}, x, train=False))(x[1:, :55])
    np.testing.assert_allclose(padded.tokens[1][padded.valid[1]], alone.tokens[0], atol=1e-5)
    np.testing.assert_allclose(padded.pooled[1:], alone.pooled, atol=1e-5)
    np.testing.assert_allclose(alone.time[0], (8.5 + 12 * np.arange(4)) / 16_000, rtol=1e-5)


def test_the_second_kind_passes_the_checks_too():
    class Stable:
        @staticmethod
        def tiny():
            instance, batch = Wav2vec.tiny()
            return instance.clone(**STABLE), batch

    subject = checks.of_encoder(Stable)
    for check in (checks.check_contract, checks.check_absent_content, checks.check_all_absent, checks.check_gradients):
        check(subject)


def test_clips_are_standardised_over_what_is_valid():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 5, (2, 90)), jnp.float32)
    y = standardised(x, VALID)
    assert (y[1, 55:] == 0).all()
    np.testing.assert_allclose(y[1, :55], (x[1, :55] - x[1, :55].mean()) / x[1, :55].std(), atol=1e-5)


def test_what_does_not_fit():
    with pytest.raises(ConfigError, match="17 samples are fewer than the 18 of one token"):
        jax.eval_shape(lambda: encoder("base").init(jax.random.key(0), jnp.ones((1, 17)), train=False))
    with pytest.raises(ConfigError, match="norm='batch' is unknown"):
        jax.eval_shape(lambda: encoder("base", norm="batch").init(jax.random.key(0), jnp.ones((1, 90)), train=False))
