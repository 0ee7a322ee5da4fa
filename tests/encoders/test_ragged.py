"""Rows of different lengths: a padded row gives what it gives alone, and what stands beyond its end is not felt before it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax import config, contract
from mmjax.encoders.audio_cnn import AudioCnn
from mmjax.encoders.spectrogram_transformer import SpectrogramTransformer
from mmjax.encoders.tcn import Tcn
from mmjax.encoders.wav2vec import STABLE, Wav2vec

RAGGED = [name for name in config.names("encoders") if {"audio", "series"} & {*config.resolve("encoders", name).tiny()[1]}]

# Stacks of convolutions.
CASES = {
    "audio_cnn": (AudioCnn, {}),
    "audio_cnn, pooled": (AudioCnn, {"pool": True, "norm": "group"}),
    "whisper": (SpectrogramTransformer, {"stem": "convs"}),
    "tcn": (Tcn, {}),
    "wav2vec": (Wav2vec, {}),
    "wav2vec, stable": (Wav2vec, STABLE),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_leaks_over_the_end_of_a_row_in_bfloat16(case):
    cls, changes = CASES[case]
    instance, batch = cls.tiny()
    (stream,) = contract.streams(batch)
    x, valid = jnp.asarray(batch[stream]), jnp.asarray(batch[f"{stream}/valid"])
    module = instance.clone(dtype="bfloat16", **changes)

    def run(variables, x):
        e, stats = module.apply(variables, x, valid, train=True, mutable="batch_stats", rngs={"dropout": jax.random.key(0)})
        return checks.probe(e), (e.tokens, e.pooled, stats)

    with jax.numpy_dtype_promotion("standard"):  # flax's norms mix types
        variables = checks.drawn(module, x, valid, train=False)
        step = checks.quick(jax.value_and_grad(run, has_aux=True))
        keep = valid.reshape(valid.shape + (1,) * (x.ndim - 2))
        wanted, *others = (step(variables, jnp.where(keep, x, value)) for value in (0.0, jnp.nan, 1e4, -1e4))
    checks.assert_finite(wanted, "outputs and gradients")
    for got in others:
        jax.tree.map(np.testing.assert_array_equal, got, wanted)


@pytest.mark.parametrize("name", RAGGED)
def test_a_padded_row_gives_what_it_gives_alone(name):
    """Behind a convolution with a bias nothing is 0 by itself: every layer has to see to it."""
    module, batch = config.resolve("encoders", name).tiny()
    (stream,) = contract.streams(batch)
    x, valid = jnp.asarray(batch[stream]), jnp.asarray(batch[f"{stream}/valid"])
    variables = checks.drawn(module, x, valid, train=False)
    padded = checks.quick(lambda x, valid: module.apply(variables, x, valid, train=False))(x, valid)
    alone = checks.quick(lambda x: module.apply(variables, x, train=False))(x[1:2, : int(valid[1].sum())])
    assert alone.valid.all()
    np.testing.assert_allclose(padded.tokens[1][padded.valid[1]], alone.tokens[0], atol=1e-5)
    np.testing.assert_allclose(padded.pooled[1:2], alone.pooled, atol=1e-5)
