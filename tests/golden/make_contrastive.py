"""Makes contrastive.npz: contrastive losses and their gradients in PyTorch.

`clip` is fig. 3 of Radford et al., 2021, line by line, on `F.cross_entropy`; `siglip` is algorithm 1 of Zhai et al.,
2023, on `F.logsigmoid`. The arithmetic is PyTorch's (in float64), the few lines around it are ours after the papers'
pseudo-code. To run it again, with the extra `torch`:

    python tests/golden/make_contrastive.py
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

SIZES = ((2, 3), (5, 8), (16, 4), (33, 16))


def clip(image, text, t):
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    logits = image @ text.T * torch.exp(t)
    labels = torch.arange(len(image))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def siglip(image, text, t, bias):
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    logits = image @ text.T * torch.exp(t) + bias
    labels = 2 * torch.eye(len(image)) - torch.ones(len(image), len(image))
    return -F.logsigmoid(labels * logits).sum() / len(image)


def main():
    rng = np.random.default_rng(0)
    arrays = {
        "about": np.array(
            "PyTorch's losses, wired after the pseudo-code of CLIP fig. 3 and SigLIP algorithm 1; made by make_contrastive.py"
        ),
        "torch": np.array(torch.__version__),
    }
    for rows, width in SIZES:
        image, text = (rng.normal(size=(rows, width)).astype(np.float32) for _ in range(2))
        log_scale, bias = np.float32(rng.uniform(0.5, 4)), np.float32(rng.uniform(-10, 0))
        given = {"image": image, "text": text, "log_scale": log_scale, "bias": bias}
        for name, loss, inputs in (("softmax", clip, list(given)[:3]), ("sigmoid", siglip, list(given))):
            leaves = [torch.tensor(given[key], dtype=torch.float64, requires_grad=True) for key in inputs]
            value = loss(*leaves)
            value.backward()
            case = f"{name}/{rows}x{width}"
            arrays[f"{case}/loss"] = np.float32(value.item())
            for key, leaf in zip(inputs, leaves, strict=True):
                arrays[f"{case}/{key}"] = given[key]
                arrays[f"{case}/grad_{key}"] = leaf.grad.numpy().astype(np.float32)
    np.savez_compressed(Path(__file__).with_name("contrastive.npz"), **arrays)


if __name__ == "__main__":
    main()
