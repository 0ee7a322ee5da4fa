"""BERT and what is built like it, as transformers stores them: BERT, MiniLM (sentence encoders), RoBERTa.

init_from=dict(text=dict(name="bert", path="sentence-transformers/all-MiniLM-L6-v2"))

Encoder: `text_transformer` with variant="bert-B" or "minilm-L6", `vocab` of its tokenizer, and at most as many tokens as the
checkpoint has positions. Devlin et al., 2019; Wang et al., 2020, 'MiniLM'; Liu et al., 2019. The embedding of the first
segment, which every token of a single text gets, is added to the positions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, blocks, converted, embedding, linear, norm, rows

BLOCK = (
    ("attention.self.query", "attention/query", linear),
    ("attention.self.key", "attention/key", linear),
    ("attention.self.value", "attention/value", linear),
    ("attention.output.dense", "attention/out", linear),
    ("attention.output.LayerNorm", "norm_1", norm),
    ("intermediate.dense", "mlp/in", linear),
    ("output.dense", "mlp/out", linear),
    ("output.LayerNorm", "norm_2", norm),
)
TABLE = [
    Row("embeddings.word_embeddings", "embedding", embedding),
    Row("embeddings.positions", "positions", rows, whole=True),
    Row("embeddings.LayerNorm", "transformer/norm", norm),
    *blocks("encoder.layer", BLOCK),
    Row("pooler.dense", "pooler", linear),
]
UNUSED = r"cls\..*|lm_head\..*|classifier\..*|.*position_ids|.*token_type_ids"
POSITIONS, SEGMENTS = "embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"


class Bert(Checkpoint):
    """The encoder of a checkpoint: `path` is a file, a folder, or a name on the hub.

    Raises:
        DataError: it cannot be read, is no such encoder, or has fewer positions than a text has tokens.
    """

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays}, with as many positions as are wanted, and the pooler where it is."""
        return {"params": encoder(below(self.arrays(), "bert.", "roberta.", ""), shapes, self.path)}


def encoder(arrays: dict[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, np.ndarray]:
    """The parameters of the encoder whose arrays these are.

    Raises:
        DataError: they are no BERT's, or have too few positions.
    """
    if POSITIONS not in arrays or SEGMENTS not in arrays:
        raise DataError(f"{where} is no BERT: it has no {POSITIONS} or {SEGMENTS}.")
    first = 2 if arrays[SEGMENTS].shape[0] == 1 else 0  # RoBERTa has one segment, and counts from its padding's id on
    positions = arrays.pop(POSITIONS)[first:] + arrays.pop(SEGMENTS)[:1]
    arrays["embeddings.positions"] = shortened(positions, shapes, where)
    return converted(arrays, TABLE, UNUSED if "pooler/kernel" in shapes else rf"pooler\..*|{UNUSED}")


def shortened(positions: np.ndarray, shapes: Mapping[str, tuple[int, ...]], where: str) -> np.ndarray:
    """The first of learned positions [N, D], as many as are wanted.

    Raises:
        DataError: there are fewer.
    """
    wanted = shapes["positions"][1] if "positions" in shapes else len(positions)
    if wanted > len(positions):
        raise DataError(f"{where} has {len(positions)} positions, and texts have {wanted} tokens: shorten them in data.pp.")
    return positions[:wanted]
