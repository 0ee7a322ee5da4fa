"""What others would train in PyTorch, as contestants: open_clip as it is, and a twin of the quickstart's model.

PyTorch and what stands on it are imported when they are asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from mmjax.config import UserError

INSTALL = "pip install torch open_clip_torch efficientnet-lite-pytorch"
STEPS = 2  # of a contestant's turn, at the least: nothing is waited for between them


class Contestant(NamedTuple):
    """Something to be timed."""

    work: Callable[[], int]  # some steps, waited for; how many examples they were
    parameters: int  # that are trained
    memory: float  # bytes that a step needs at the most, NaN where that is not known


def needed(*packages: str) -> None:
    """One line for what is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"The peer takes {', '.join(missing)}, not installed here: {INSTALL}")


def clip(name: str, batch: Mapping[str, np.ndarray], half: bool, compiled: bool) -> Contestant:
    """open_clip's model of a name, such as "ViT-B-32-quickgelu", with its `ClipLoss`, on images [B, H, W, 3] and texts [B, L].

    AdamW fused, attention by PyTorch's own choice (SDPA), under bfloat16 autocast if `half`; `compiled` by `torch.compile`.
    """
    needed("torch", "open_clip")
    import open_clip
    import torch

    model = open_clip.create_model(name, output_dict=False)
    image = torch.from_numpy(batch["image"].astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    ids = batch["text"].copy()
    ids[:, -1] = ids.max() + 1  # where open_clip takes the text's vector from
    return _contestant(model, open_clip.ClipLoss(), (image, torch.from_numpy(ids).long()), half, compiled)


def quickstart(batch: Mapping[str, np.ndarray], compiled: bool) -> Contestant:
    """The model of `configs/align_openmoji.py`: a frozen EfficientNet-Lite0 of the package efficientnet-lite-pytorch behind batch norm,
    dropout and a matrix; `nn.EmbeddingBag` over the same subwords' hashes; an average of the parameters. In float32.
    """
    needed("torch", "efficientnet_lite_pytorch")
    import jax.numpy as jnp
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torch import nn

    from mmjax.encoders.subword_vectors import SubwordVectors, subwords

    made = SubwordVectors()
    hashes, there = map(np.array, subwords(jnp.asarray(batch["text"]), jnp.asarray(batch["text/valid"]), made.sizes))
    ids = torch.from_numpy((hashes % made.buckets).astype(np.int64).reshape(len(hashes), -1))
    weight = torch.from_numpy(there.astype(np.float32).reshape(len(hashes), -1))

    class Quickstart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.eyes = EfficientNet.from_name("efficientnet-lite0").eval().requires_grad_(False).to(memory_format=torch.channels_last)
            self.norm, self.dropout = nn.BatchNorm1d(1280), nn.Dropout(0.5)
            self.matrix = nn.Linear(1280, 2_048, bias=False)
            self.words = nn.EmbeddingBag(made.buckets, 2_048, mode="sum")
            self.logit_scale = nn.Parameter(torch.tensor(2.3))

        def forward(self, image: Any, ids: Any, weight: Any) -> tuple:
            with torch.no_grad():
                self.eyes.eval()
                seen = self.eyes.extract_features(image).mean((2, 3))
            image = self.matrix(self.dropout(self.norm(seen)))
            text = self.words(ids, per_sample_weights=weight / weight.sum(1, keepdim=True))
            return nn.functional.normalize(image), nn.functional.normalize(text), self.logit_scale.exp()

    def loss(image: Any, text: Any, scale: Any) -> Any:
        logits, right = scale * image @ text.T, torch.arange(len(image))
        return (nn.functional.cross_entropy(logits, right) + nn.functional.cross_entropy(logits.T, right)) / 2

    image = ((torch.from_numpy(batch["image"].astype(np.float32)) - 127) / 128).permute(0, 3, 1, 2)
    image = image.contiguous(memory_format=torch.channels_last)
    return _contestant(Quickstart(), loss, (image, ids, weight), False, compiled, average=0.97)


def _contestant(model: Any, loss: Callable, inputs: tuple, half: bool, compiled: bool, average: float | None = None) -> Contestant:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high" if half else "highest")
    model = model.to(device).train()
    inputs = tuple(x.to(device) for x in inputs)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.1, fused=True)
    ema = [p.detach().clone() for p in trained] if average is not None else []
    forward = torch.compile(model) if compiled else model

    def step() -> Any:
        with torch.autocast(device, torch.bfloat16) if half else nullcontext():
            value = loss(*forward(*inputs))
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            torch._foreach_lerp_(ema, [p.detach() for p in trained], 1 - average)
        return value

    def work() -> int:
        for _ in range(STEPS):
            value = step()
        value.item()
        return STEPS * len(inputs[0])

    before, memory = 0, float("nan")
    if device == "cuda":
        before = torch.cuda.memory_allocated() - sum(x.numel() * x.element_size() for x in [*model.parameters(), *inputs])
        torch.cuda.reset_peak_memory_stats()
    work()  # which compiles, and makes the optimizer's state
    if device == "cuda":
        memory = float(torch.cuda.max_memory_allocated() - before)
    return Contestant(work, sum(p.numel() for p in trained), memory)


def clip_loss(image: np.ndarray, text: np.ndarray) -> Callable[[], int]:
    """open_clip's `ClipLoss` and its gradients by both sides [B, D]."""
    needed("torch", "open_clip")
    import open_clip
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sides = [torch.from_numpy(x).to(device).requires_grad_() for x in (image, text)]
    loss = open_clip.ClipLoss()

    def work() -> int:
        value = loss(*sides, torch.tensor(100.0, device=device))
        torch.autograd.grad(value, sides)[0].sum().item()
        return 1

    return work
