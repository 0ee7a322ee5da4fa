"""Makes series.npz: what PyTorch gives for the weights and inputs stored beside it.

The recurrent layers are `torch.nn.LSTM` and `torch.nn.GRU` on packed sequences, unchanged. The temporal convolutional
network is written here from `torch.nn` layers, after Bai et al., 2018 (fig. 1). To run it again, with the extra `torch`:

    python tests/golden/make_series.py
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Block(nn.Module):
    def __init__(self, inputs, width, kernel, dilation):
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.conv_0 = weight_norm(nn.Conv1d(inputs, width, kernel, dilation=dilation))
        self.conv_1 = weight_norm(nn.Conv1d(width, width, kernel, dilation=dilation))
        self.shortcut = nn.Conv1d(inputs, width, 1) if inputs != width else nn.Identity()

    def forward(self, x):
        y = x
        for conv in (self.conv_0, self.conv_1):
            y = torch.relu(conv(nn.functional.pad(y, (self.reach, 0))))
        return torch.relu(y + self.shortcut(x))


def main():
    generator = torch.Generator().manual_seed(0)
    arrays = {
        "about": np.array("torch.nn layers, and a TCN made of them; by make_series.py"),
        "torch": np.array(torch.__version__),
    }

    def keep(case, module, **values):
        for name, value in {**{f"weights/{k}": v for k, v in module.state_dict().items()}, **values}.items():
            arrays[f"{case}/{name}"] = value.detach().numpy().copy()

    def randomised(module):
        for value in module.state_dict().values():
            value.copy_(0.5 * torch.randn(value.shape, generator=generator))
        return module

    x, weight, lengths = torch.randn(3, 6, 3, generator=generator), torch.randn(3, 6, 8, generator=generator), torch.tensor([6, 2, 5])
    for case, cls in {"lstm": nn.LSTM, "gru": nn.GRU}.items():
        module = randomised(cls(3, 4, num_layers=2, bidirectional=True, batch_first=True))
        inputs = x.clone().requires_grad_()
        y, last = module(pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False))
        y, _ = pad_packed_sequence(y, batch_first=True)
        (y * weight).sum().backward()
        last = last[0] if isinstance(last, tuple) else last
        keep(case, module, y=y, last=torch.cat([last[2], last[3]], dim=1), grad_x=inputs.grad)

    tcn = randomised(nn.Sequential(Block(3, 8, 3, 1), Block(8, 8, 3, 2)))
    keep("tcn", tcn, y=tcn(x.transpose(1, 2)).transpose(1, 2))
    arrays.update(x=x.numpy(), weight=weight.numpy(), lengths=lengths.numpy())
    np.savez_compressed(Path(__file__).with_name("series.npz"), **arrays)


if __name__ == "__main__":
    main()
