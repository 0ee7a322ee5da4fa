"""AST and Whisper's encoder against transformers', and their masks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

import checks
from mmjax.config import ConfigError
from mmjax.encoders.spectrogram_transformer import SpectrogramTransformer
from torch_weights import dense, norm, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "audio.npz")
SMALL = {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0}
X, VALID = (jnp.asarray(SpectrogramTransformer.tiny()[1][name]) for name in ("audio", "audio/valid"))


def ast():
    w = weights(GOLDEN, "ast")

    def block(name):
        parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
        return {
            "attention": {ours: dense(w, f"{name}.attention.{theirs}") for ours, theirs in parts.items()},
            "mlp": {"in": dense(w, f"{name}.mlp.fc1"), "out": dense(w, f"{name}.mlp.fc2")},
            "norm_1": norm(w, f"{name}.layernorm_before"),
            "norm_2": norm(w, f"{name}.layernorm_after"),
        }

    conv, positions = "embeddings.patch_embeddings.projection", w["embeddings.position_embeddings"]
    return {
        "embedding": {"kernel": rearrange(w[f"{conv}.weight"], "d c f t -> t f c d"), "bias": w[f"{conv}.bias"]},
        "extra_tokens": jnp.concatenate([w["embeddings.cls_token"], w["embeddings.distillation_token"]], axis=1),
        "extra_positions": positions[:, :2],
        "positions": rearrange(positions[:, 2:], "b (f t) d -> b f t d", f=3),
        "transformer": {"block_00": block("layers.0"), "block_01": block("layers.1"), "norm": norm(w, "layernorm")},
    }


def whisper():
    w = weights(GOLDEN, "whisper")

    def block(name):
        parts = {"query": "q_proj", "value": "v_proj", "out": "out_proj"}
        attention = {ours: dense(w, f"{name}.self_attn.{theirs}") for ours, theirs in parts.items()}
        return {
            "attention": {**attention, "key": {"kernel": w[f"{name}.self_attn.k_proj.weight"].T}},
            "mlp": {"in": dense(w, f"{name}.fc1"), "out": dense(w, f"{name}.fc2")},
            "norm_1": norm(w, f"{name}.self_attn_layer_norm"),
            "norm_2": norm(w, f"{name}.final_layer_norm"),
        }

    convs = {
        f"conv_{i}": {"kernel": rearrange(w[f"conv{i + 1}.weight"], "o i k -> k i o"), "bias": w[f"conv{i + 1}.bias"]} for i in range(2)
    }
    return {**convs, "transformer": {"block_00": block("layers.0"), "block_01": block("layers.1"), "norm": norm(w, "layer_norm")}}


def test_patches_are_asts():
    module = SpectrogramTransformer(**SMALL, patch=4, stride=3, norm_epsilon=1e-12)
    e = checks.quick(lambda params, x: module.apply({"params": params}, x, train=False))(ast(), GOLDEN["ast/x"])
    np.testing.assert_allclose(e.tokens, GOLDEN["ast/y"], atol=1e-5)
    np.testing.assert_allclose(e.pooled, GOLDEN["ast/pooled"], atol=1e-5)


def test_convs_are_whispers():
    module = SpectrogramTransformer("convs", **{**SMALL, "mlp_ratio": 4.0}, rate=100.0)
    e = checks.quick(lambda params, x: module.apply({"params": params}, x, train=False))(whisper(), GOLDEN["whisper/x"])
    np.testing.assert_allclose(e.tokens, GOLDEN["whisper/y"], atol=1e-5)
    np.testing.assert_allclose(e.pooled, GOLDEN["whisper/y"].mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(e.time[0], 0.005 + 0.02 * np.arange(6), rtol=1e-5)


@pytest.mark.parametrize("stem", ["patches", "convs"])
def test_a_ragged_row_gives_what_it_gives_alone(stem):
    """Shorter inputs take the first of the learned positions."""
    module = SpectrogramTransformer(stem, **SMALL, patch=4, stride=2)
    variables = checks.drawn(module, X, VALID, train=False)
    padded = checks.quick(lambda x, valid: module.apply(variables, x, valid, train=False))(X.at[1, 7:].set(jnp.nan), VALID)
    alone = checks.quick(lambda x: module.apply(variables, x, train=False))(X[1:2, :7])
    np.testing.assert_allclose(padded.tokens[1][padded.valid[1]], alone.tokens[0], atol=1e-5)
    np.testing.assert_allclose(padded.pooled[1:2], alone.pooled, atol=1e-5)


def test_convs_pass_every_check_too():
    class Convs:
        @staticmethod
        def tiny():
            return SpectrogramTransformer("convs", width=16, depth=1, heads=2), SpectrogramTransformer.tiny()[1]

    subject = checks.of_encoder(Convs)
    for check in (checks.check_contract, checks.check_absent_content, checks.check_all_absent, checks.check_gradients):
        check(subject)


def test_what_does_not_fit():
    module = SpectrogramTransformer(**SMALL, patch=4, stride=2)
    variables = checks.drawn(module, X, VALID, train=False)
    with pytest.raises(ConfigError, match="2 x 5 tokens is longer than the 2 x 4 positions learned"):
        jax.eval_shape(lambda: module.apply(variables, jnp.ones((1, 13, 6)), train=False))
    with pytest.raises(ConfigError, match="no patch of 4 x 4 fits a spectrogram of 3 x 6. Pad it to 4 x 6 or more"):
        jax.eval_shape(lambda: module.apply(variables, X[:, :3], train=False))
    with pytest.raises(ConfigError, match="stem='patch' is unknown"):
        jax.eval_shape(lambda: SpectrogramTransformer("patch").init(jax.random.key(0), X, train=False))
