"""GPT-2, as transformers stores it: Radford et al., 2019, 'Language Models are Unsupervised Multitask Learners'.

init_from=dict(text=dict(name="gpt2", path="openai-community/gpt2"))

Encoder: `text_transformer` with variant="gpt2", vocab=50257 and at most 1,024 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, blocks, conv1d, converted, embedding, norm, packed_conv1d, rows
from mmjax.weights.bert import shortened

BLOCK = (
    ("attn.c_attn", "attention", packed_conv1d),
    ("attn.c_proj", "attention/out", conv1d),
    ("ln_1", "norm_1", norm),
    ("ln_2", "norm_2", norm),
    ("mlp.c_fc", "mlp/in", conv1d),
    ("mlp.c_proj", "mlp/out", conv1d),
)
TABLE = [
    Row("wte", "embedding", embedding),
    Row("positions", "positions", rows, whole=True),
    *blocks("h", BLOCK),
    Row("ln_f", "transformer/norm", norm),
]
UNUSED = r"lm_head\..*|h\.\d+\.attn\.(masked_)?bias"


class Gpt2(Checkpoint):
    """The decoder of a checkpoint as an encoder: `path` is a file, a folder, or a name on the hub.

    Raises:
        DataError: it cannot be read, is no GPT-2, or has fewer positions than a text has tokens.
    """

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays}, with as many positions as are wanted."""
        arrays = below(self.arrays(), "transformer.", "")
        if "wpe.weight" not in arrays:
            raise DataError(f"{self.path} is no GPT-2: it has no wpe.weight.")
        arrays["positions"] = shortened(arrays.pop("wpe.weight"), shapes, self.path)
        return {"params": converted(arrays, TABLE, UNUSED)}
