"""Audio encoders by their published sizes' names have the published numbers of parameters."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config import build

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "audio.npz")  # counted in the PyTorch modules, without weights
SAMPLES = (1, 400)


def count(name, variant, shape):
    encoder = build("encoders", {"name": name, "variant": variant}, "encoder")
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.ones(shape), train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_ast():
    """transformers' ASTModel: 1,024 frames of 128 bins, no head."""
    assert count("spectrogram_transformer", "ast", (1, 1024, 128)) == GOLDEN["count/ast"]


@pytest.mark.parametrize("size", ["tiny", "base", "small", "medium", "large"])
def test_whisper(size):
    """transformers' WhisperEncoder: 80 bins; its positions are fixed and not counted."""
    assert count("spectrogram_transformer", f"whisper-{size}", (1, 3000, 80)) == GOLDEN[f"count/whisper/{size}"]


@pytest.mark.parametrize(
    ("variant", "published", "width"),
    [
        ("base", "wav2vec/base", 768),
        ("large", "wav2vec/large", 1024),
        ("large-lv60", "wav2vec/large-lv60", 1024),
        ("base", "hubert/base", 768),
        ("large-lv60", "hubert/large-lv60", 1024),
        ("xlarge", "hubert/xlarge", 1280),
    ],
)
def test_wav2vec_and_hubert(variant, published, width):
    """transformers' Wav2Vec2Model and HubertModel count, besides the encoder, what stands for a masked step in pretraining."""
    assert count("wav2vec", variant, SAMPLES) + width == GOLDEN[f"count/{published}"]


@pytest.mark.parametrize(("size", "published", "width"), [("cnn6", 4_837_455, 512), ("cnn10", 5_219_279, 512), ("cnn14", 80_753_615, 2048)])
def test_panns(size, published, width):
    """Kong et al., 2020, table VIII, with the classifier of 527 classes; CNN14 also as the authors' package counts."""
    assert count("audio_cnn", size, (1, 64, 64)) + (width + 1) * 527 == published
    assert size != "cnn14" or GOLDEN["count/panns/cnn14"] == published
