"""VideoMAE, as transformers stores it: Tong et al., 2022.

init_from=dict(video=dict(name="videomae", path="MCG-NJU/videomae-base-finetuned-kinetics"))

Encoder: `video_transformer` with variant="videomae-B" and its like, on 16 frames of 224 x 224. The norm of the pooled vector is
the fine-tuned classifier's; of a checkpoint that was pretrained alone it begins as none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from einops import rearrange

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, blocks, converted, norm
from mmjax.weights.vit import VIT_BLOCK


def tubelets(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """A convolution of which no two windows overlap to a dense layer on the pixels of a tubelet."""
    return {"kernel": rearrange(x, "o c f p q -> (f p q c) o")} if name == "weight" else {"bias": x}


TABLE = [
    Row("embeddings.patch_embeddings.projection", "embedding", tubelets),
    *blocks("encoder.layer", VIT_BLOCK),
    # the older names of two biases, whose layers had none
    Row("encoder.layer.{}.attention.attention.q_bias", "transformer/block_{:02d}/attention/query/bias", lambda _, x: {"": x}, whole=True),
    Row("encoder.layer.{}.attention.attention.v_bias", "transformer/block_{:02d}/attention/value/bias", lambda _, x: {"": x}, whole=True),
    Row("fc_norm", "norm", norm),
]
UNUSED = r"decoder\..*|encoder_to_decoder\..*|mask_token|position_embeddings|classifier\..*|layernorm\..*"


class Videomae(Checkpoint):
    """The encoder of a checkpoint; its positions are fixed ones."""

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays}.

        Raises:
            DataError: it is no VideoMAE.
        """
        everything = self.arrays()
        arrays = below(everything, "videomae.", "") | {k: x for k, x in everything.items() if k.startswith("fc_norm.")}
        kernel = arrays.get("embeddings.patch_embeddings.projection.weight")
        if kernel is None or kernel.ndim != 5 or "embeddings.cls_token" in arrays:
            raise DataError(f"{self.path} is no VideoMAE: it has no tubelets, or a class token.")
        found = converted(arrays, TABLE, UNUSED)
        if "norm/scale" not in found:
            found |= {"norm/scale": np.ones(len(kernel), np.float32), "norm/bias": np.zeros(len(kernel), np.float32)}
        return {"params": found}
