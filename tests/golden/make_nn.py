"""Makes nn.npz: what PyTorch's own layers give for the weights and inputs stored beside it.

The transformer block is `torch.nn.TransformerEncoderLayer` and the patch embedding `torch.nn.Conv2d`, unchanged. The
attention pool and the bottleneck are written here, from `torch.nn` layers, after Zhai et al., 2022 ('Scaling Vision
Transformers', sec. 3) and He et al., 2016 (with the stride in the 3x3 layer). To run it again, with the extra `torch`:

    python tests/golden/make_nn.py
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

gelu = partial(nn.functional.gelu, approximate="tanh")


class Pool(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, padding):
        y, _ = self.attention(self.probe.expand(len(x), -1, -1), x, x, key_padding_mask=padding)
        return (y + self.linear2(gelu(self.linear1(self.norm(y)))))[:, 0]


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv_1, self.norm_1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv_2, self.norm_2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv_3, self.norm_3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.conv_shortcut, self.norm_shortcut = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)

    def forward(self, x):
        y = torch.relu(self.norm_1(self.conv_1(x)))
        y = torch.relu(self.norm_2(self.conv_2(y)))
        return torch.relu(self.norm_3(self.conv_3(y)) + self.norm_shortcut(self.conv_shortcut(x)))


def randomised(module, generator):
    """No weight is left at 0 or 1, and running statistics are as after training."""
    for name, value in module.state_dict().items():
        if value.dtype == torch.float32:
            value.copy_(value + 0.2 * torch.randn(value.shape, generator=generator))
        if name.endswith("running_var"):
            value.abs_().add_(0.1)
    return module


def main():
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    arrays = {
        "about": np.array("torch.nn layers, and two modules written from them after the papers; made by make_nn.py"),
        "torch": np.array(torch.__version__),
    }

    def keep(case, module=None, **values):
        weights = {} if module is None else {f"weights/{name}": value for name, value in module.state_dict().items()}
        for name, value in {**weights, **values}.items():
            arrays[f"{case}/{name}"] = value.detach().numpy().copy()

    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation=gelu, layer_norm_eps=1e-6, batch_first=True, norm_first=True)
    randomised(block, generator)
    x, weight = draw(2, 5, 16, requires_grad=True), draw(2, 5, 16)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for case, masks in {"full": {}, "padded": {"src_key_padding_mask": padding}, "causal": {"src_mask": causal}}.items():
        x.grad = None
        y = block(x, **masks)  # in train mode: eval mode takes a fused path that fills padding with zeros
        (y * weight).sum().backward()
        keep(f"block_{case}", y=y, grad_x=x.grad)
    keep("block", block, x=x, weight=weight, valid=~padding)

    pool = randomised(Pool(16, 2), generator)
    keep("pool", pool, x=x, valid=~padding, y=pool(x, padding))

    patches, image = randomised(nn.Conv2d(3, 8, 4, stride=4), generator), draw(2, 3, 8, 12)
    keep("patches", patches, x=image, y=patches(image))

    bottleneck, image = randomised(Bottleneck(8, 4, 2), generator), draw(3, 8, 7, 6)
    keep("bottleneck", bottleneck, x=image, y=bottleneck.eval()(image))
    keep("bottleneck_train", y=bottleneck.train()(image), mean=bottleneck.norm_2.running_mean, var=bottleneck.norm_2.running_var)
    np.savez_compressed(Path(__file__).with_name("nn.npz"), **arrays)


if __name__ == "__main__":
    main()
