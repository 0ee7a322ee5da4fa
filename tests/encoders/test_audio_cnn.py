"""What is particular to convolutions over log-mel."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

import checks
from mmjax.config import ConfigError
from mmjax.encoders.audio_cnn import AudioCnn

PANNS = np.load(Path(__file__).parents[1] / "golden" / "audio.npz")
X, VALID = (jnp.asarray(AudioCnn.tiny()[1][name]) for name in ("audio", "audio/valid"))


def panns():
    """A narrow Cnn14 of the authors' package, in evaluation."""
    w = {name.removeprefix("cnn14/weights/"): jnp.asarray(PANNS[name]) for name in PANNS.files if name.startswith("cnn14/weights/")}
    params = {"out": {"kernel": w["fc1.weight"].T, "bias": w["fc1.bias"]}}
    stats = {}

    def norm(name):
        own = {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}
        return {"batch": own}, {"batch": {"mean": w[f"{name}.running_mean"], "var": w[f"{name}.running_var"]}}

    params["input_norm"], stats["input_norm"] = norm("bn0")
    for i in range(6):
        block = params[f"block_{i}"], stats[f"block_{i}"] = {}, {}
        for j in range(2):
            name = f"conv_block{i + 1}"
            block[0][f"conv_{j}"] = {"kernel": rearrange(w[f"{name}.conv{j + 1}.weight"], "o i h w -> h w i o")}
            block[0][f"norm_{j}"], block[1][f"norm_{j}"] = norm(f"{name}.bn{j + 1}")
    widths = [w[f"conv_block{i + 1}.bn1.weight"].size for i in range(6)]
    blocks = tuple(zip(widths, (2, 2, 2, 2, 2, 1), strict=True))
    return AudioCnn(**{**AudioCnn.variants["cnn14"], "blocks": blocks}), {"params": params, "batch_stats": stats}


def test_cnn14_is_the_authors():
    module, variables = panns()
    e = checks.quick(lambda x: module.apply(variables, x, train=False))(PANNS["cnn14/x"])
    assert e.tokens.shape[1] == 2
    np.testing.assert_allclose(e.pooled, PANNS["cnn14/embedding"], atol=1e-5 * np.abs(PANNS["cnn14/embedding"]).max())


@pytest.mark.parametrize(("norm", "pool"), [("batch", True), ("group", False), ("group", True)])
def test_a_ragged_row_gives_what_it_gives_alone(norm, pool):
    """In every manner of pooling: nothing leaks over the end of a row."""
    module = AudioCnn(blocks=((4, 2), (8, 2)), norm=norm, pool=pool)
    variables = checks.drawn(module, X, VALID, train=False)
    padded = checks.quick(lambda x, valid: module.apply(variables, x, valid, train=False))(X.at[1, 6:].set(jnp.nan), VALID)
    alone = checks.quick(lambda x: module.apply(variables, x, train=False))(X[1:2, :6])
    assert padded.valid.sum(axis=1).tolist() == [4, 2, 1, 3] and alone.tokens.shape[1] == 2
    np.testing.assert_allclose(padded.tokens[1:2, :2], alone.tokens, atol=1e-5)
    np.testing.assert_allclose(padded.pooled[1:2], alone.pooled, atol=1e-5)


def test_times_are_the_middles_of_the_frames():
    module = AudioCnn(blocks=((4, 2), (8, 2)), rate=100.0)
    e = module.apply(checks.drawn(module, X, VALID, train=False), X, VALID, train=False)
    np.testing.assert_allclose(e.time[0], [0.015, 0.055, 0.095, 0.135], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"), [({"norm": "layer"}, "norm='layer' is unknown"), ({"kernel": 4}, "kernel=4 should be odd")]
)
def test_wrong_names_and_sizes(changes, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: AudioCnn(**changes).init(jax.random.key(0), X, train=False))


def test_parts_tell_early_from_late():
    """A sound at the beginning or at the end of silence: the mean of the whole is nearly the same, those of its parts are not."""
    sound, silence = 50 * np.ones((1, 8, 6), np.float32), np.zeros((1, 24, 6), np.float32)
    early, late = (jnp.asarray(np.concatenate(x, axis=1)) for x in ((sound, silence), (silence, sound)))
    far = {}
    for parts in (1, 4):
        module = AudioCnn(blocks=((4, 2), (8, 2)), parts=parts)
        variables = checks.drawn(module, early, train=False)
        a, b = (module.apply(variables, x, train=False).pooled for x in (early, late))
        assert a.shape == (1, 8)
        far[parts] = float(jnp.abs(a - b).mean() / jnp.maximum(jnp.abs(a).mean(), 1e-3))
    assert far[4] > 3 * far[1], far
