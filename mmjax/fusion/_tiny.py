"""Made-up tokens for the `tiny` of fusions."""

from __future__ import annotations

import numpy as np


def tiny_tokens(rows: int = 8, **shapes: tuple[int, int]) -> dict[str, np.ndarray]:
    """{modality: tokens [rows, N, D], `<modality>/valid`: ragged} for `modality=(N, D)`; in the form of `mmjax/testing/fusion.py`."""
    rng = np.random.default_rng(0)
    batch: dict[str, np.ndarray] = {}
    for modality, (n, width) in shapes.items():
        batch[modality] = rng.normal(size=(rows, n, width)).astype(np.float32)
        batch[f"{modality}/valid"] = np.arange(n) < rng.integers(1, n + 1, (rows, 1))
    return batch
