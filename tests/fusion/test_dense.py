"""Dense fusion: a shared layer on each level of all modalities. Not independent: the loop is ours."""

import jax
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.fusion.dense import Dense


def test_each_shared_layer_takes_its_level_of_every_modality_and_the_one_below():
    given = encodings(image=(5, 6), text=(3, 4))
    given["text"] = given["text"]._replace(stages=given["text"].stages[1:], present=given["text"].present.at[0].set(False))  # one fewer
    module = Dense(width=7, levels=3)
    variables = checks.drawn(module, given, train=False)
    w = jax.tree.map(np.asarray, variables["params"])
    got = fused(module, variables, given).pooled

    def normed(x, layer):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * layer["scale"] + layer["bias"]

    for row in range(3):
        shared = []
        for level in (3, 2, 1):
            inputs = list(shared)
            for m, e in given.items():
                levels = [*e.stages, e.pooled[:, None]]
                if level > len(levels):
                    continue
                x = np.asarray(levels[-level][row])
                x = x[np.asarray(e.valid[row])] if len(x) == e.valid.shape[1] else x
                inputs.append(normed(x.mean(axis=0), w[f"{m}_norm_{level}"]) * np.asarray(e.present[row]))
            shared = [np.maximum(np.concatenate(inputs) @ w[f"shared_{level}"]["kernel"] + w[f"shared_{level}"]["bias"], 0)]
        np.testing.assert_allclose(got[row], shared[0], atol=2e-5)


def test_more_levels_than_the_encoders_have():
    with pytest.raises(ConfigError, match="levels=4 should be 1 to 3: the encoders give up to 2 stages"):
        Dense(levels=4).init(jax.random.key(0), encodings(text=(3, 4)), train=False)
