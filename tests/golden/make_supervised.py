"""Losses of predictions and their gradients from PyTorch, on random inputs: `python tests/golden/make_supervised.py`."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

rng = np.random.default_rng(0)
logits, labels = rng.normal(size=(7, 4)).astype(np.float32) * 2, rng.integers(0, 4, 7)
tags, values = rng.random((7, 4)) < 0.4, rng.normal(size=(7, 4)).astype(np.float32) * 2
weights = np.array([1.0, 2.0, 0.5, 3.0], np.float32)
y, t, v, w = torch.tensor(labels), torch.tensor(tags, dtype=torch.float32), torch.tensor(values), torch.tensor(weights)
CASES = {
    "cross_entropy": lambda x: F.cross_entropy(x, y),
    "cross_entropy_smoothed": lambda x: F.cross_entropy(x, y, label_smoothing=0.1),
    "cross_entropy_weighted": lambda x: F.cross_entropy(x, y, weight=w),
    "cross_entropy_both": lambda x: F.cross_entropy(x, y, weight=w, label_smoothing=0.1),
    "bce": lambda x: F.binary_cross_entropy_with_logits(x, t),
    "bce_weighted": lambda x: F.binary_cross_entropy_with_logits(x, t, pos_weight=w),
    "l1": lambda x: F.l1_loss(x, v),
    "l2": lambda x: F.mse_loss(x, v),
    "huber": lambda x: F.huber_loss(x, v, delta=0.7),
}
found = {"logits": logits, "labels": labels.astype(np.int32), "tags": tags, "values": values, "weights": weights}
for name, loss in CASES.items():
    x = torch.tensor(logits, requires_grad=True)
    total = loss(x)
    total.backward()
    found |= {f"{name}/loss": total.detach().numpy(), f"{name}/grad": x.grad.numpy()}
np.savez(Path(__file__).with_name("supervised.npz"), **found, versions=f"torch {torch.__version__}, numpy {np.__version__}")
