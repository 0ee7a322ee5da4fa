"""wav2vec 2.0 and HuBERT, as transformers stores them: Baevski et al., 2020; Hsu et al., 2021.

init_from=dict(audio=dict(name="wav2vec2", path="facebook/hubert-base-ls960"))

Encoder: `wav2vec` with variant="base", "large", "large-lv60" or HuBERT's "xlarge", on 16,000 samples a second.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, blocks, conv, converted, linear, norm

BLOCK = (
    ("attention.q_proj", "attention/query", linear),
    ("attention.k_proj", "attention/key", linear),
    ("attention.v_proj", "attention/value", linear),
    ("attention.out_proj", "attention/out", linear),
    ("layer_norm", "norm_1", norm),
    ("final_layer_norm", "norm_2", norm),
    ("feed_forward.intermediate_dense", "mlp/in", linear),
    ("feed_forward.output_dense", "mlp/out", linear),
)


def _kernel(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    return {"kernel": conv("weight", x)["kernel"]}


def _scale(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    return {"scale": conv("weight", x)["kernel"]}


POSITIONS = "encoder.pos_conv_embed.conv"
TABLE = [
    Row("feature_extractor.conv_layers.{}.conv", "conv_{}", conv),
    Row("feature_extractor.conv_layers.{}.layer_norm", "norm_{}", norm),
    Row("feature_projection.layer_norm", "features_norm", norm),
    Row("feature_projection.projection", "projection", linear),
    # the weight norm of the positions' convolution, by its two names
    *(Row(f"{POSITIONS}.{name}", "positions", _scale, whole=True) for name in ("weight_g", "parametrizations.weight.original0")),
    *(Row(f"{POSITIONS}.{name}", "positions", _kernel, whole=True) for name in ("weight_v", "parametrizations.weight.original1")),
    Row(POSITIONS, "positions", linear),  # its bias
    *blocks("encoder.layers", BLOCK),
    Row("encoder.layer_norm", "transformer/norm", norm),
]
UNUSED = r"masked_spec_embed|lm_head\..*|quantizer\..*|project_(q|hid)\..*|projector\..*|classifier\..*|layer_weights"


class Wav2vec2(Checkpoint):
    """The encoder of a checkpoint."""

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays}.

        Raises:
            DataError: it is neither of the two.
        """
        arrays = below(self.arrays(), "wav2vec2.", "hubert.", "")
        if "feature_projection.projection.weight" not in arrays:
            raise DataError(f"{self.path} is no wav2vec 2.0 or HuBERT: it has no feature_projection.projection.weight.")
        found = converted(arrays, TABLE, UNUSED)
        if any(name.startswith("norm_0/instance/") for name in shapes):  # the first convolution's alone, a group a channel
            found = {name.replace("norm_0/", "norm_0/instance/"): x for name, x in found.items()}
        return {"params": found}
