"""Makes fusion_tokens.npz: what published code gives for fusion methods over tokens.

It runs the code of these repositories, which lie side by side in a folder DIR at these commits:

    yaohungt/Multimodal-Transformer    a670936824ee722c8494fd98d204977a1d663c7a    MulT
    pliang279/MultiBench               49f9be224f342de005b7f001281f33df4301eb22    the non-local gate

MulT's widths and depths, which its constructor fixes, are made smaller; everything behind it runs unchanged. To run it
again, with the extra `torch`:

    python tests/golden/make_fusion_tokens.py DIR
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

REPOSITORIES = {
    "Multimodal-Transformer": "a670936824ee722c8494fd98d204977a1d663c7a",
    "MultiBench": "49f9be224f342de005b7f001281f33df4301eb22",
}
LENGTHS, WIDTHS, WIDTH, ROWS = (5, 4, 3), (3, 5, 6), 4, 2  # of l, a and v


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def randomised(module, generator):
    for value in module.state_dict().values():
        value.add_(0.3 * torch.randn(value.shape, generator=generator))
    return module.eval()


def mult(folder, generator):
    sys.path.insert(0, str(folder))
    published = load(folder / "src" / "models.py").MULTModel
    positions = sys.modules["modules.position_embedding"]
    made = positions.make_positions
    positions.make_positions = lambda *args: made(*args).contiguous()  # today's PyTorch does not view it otherwise

    class Small(published):
        def __init__(self):
            nn.Module.__init__(self)
            self.orig_d_l, self.orig_d_a, self.orig_d_v = WIDTHS
            self.d_l = self.d_a = self.d_v = WIDTH
            self.lonly = self.aonly = self.vonly = True
            self.partial_mode, self.num_heads, self.layers, self.attn_mask = 3, 2, 2, False
            self.attn_dropout = self.attn_dropout_a = self.attn_dropout_v = 0.0
            self.relu_dropout = self.res_dropout = self.out_dropout = self.embed_dropout = 0.0
            for m, width in zip("lav", WIDTHS, strict=True):
                setattr(self, f"proj_{m}", nn.Conv1d(width, WIDTH, kernel_size=1, bias=False))
                setattr(self, f"trans_{m}_mem", self.get_network(f"{m}_mem", layers=2))
                for n in "lav".replace(m, ""):
                    setattr(self, f"trans_{m}_with_{n}", self.get_network(m + n))
            combined = 6 * WIDTH
            self.proj1, self.proj2, self.out_layer = nn.Linear(combined, combined), nn.Linear(combined, combined), nn.Linear(combined, 1)

    model = randomised(Small(), generator)
    inputs = [torch.randn(ROWS, n, width, generator=generator) for n, width in zip(LENGTHS, WIDTHS, strict=True)]
    arrays = {f"mult/x_{m}": x for m, x in zip("lav", inputs, strict=True)} | {"mult/y": model(*inputs)[1]}
    head = ("proj1", "proj2", "out_layer")  # behind what we compare
    return arrays | {f"mult/weights/{name}": value for name, value in model.state_dict().items() if not name.startswith(head)}


def nl_gate(folder, generator):
    n, context, width, hidden, other = 4, 3, 5, 5, 6
    # The gate has a linear layer on the flattened sequence; here a layer on each token, as in its paper, written as that.
    key, value = nn.Linear(other, hidden), nn.Linear(other, hidden)
    gate = load(folder / "fusions" / "common_fusions.py").NLgate(n, hidden, context, None, (1, 1), (1, 1))

    class EachTransposed(nn.Module):
        def forward(self, x):
            return key(x).transpose(1, 2).contiguous()

    gate.kli, gate.vli = EachTransposed(), value
    x, y = torch.randn(ROWS, n, width, generator=generator), torch.randn(ROWS, context, other, generator=generator)
    arrays = {"nl_gate/x": x, "nl_gate/context": y, "nl_gate/y": gate((x, y)).reshape(ROWS, n, width)}
    layers = {f"{name}.{part}": tensor for name, layer in (("key", key), ("value", value)) for part, tensor in layer.state_dict().items()}
    return arrays | {f"nl_gate/weights/{name}": tensor for name, tensor in layers.items()}


@torch.no_grad()
def main():
    folder, generator = Path(sys.argv[1]), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    arrays = mult(folder / "Multimodal-Transformer", generator) | nl_gate(folder / "MultiBench", generator)
    arrays = {name: value.numpy() for name, value in arrays.items() if not name.endswith(("version", "_float_tensor"))}
    made_by = f"torch {torch.__version__}; " + "; ".join(f"{name} {commit}" for name, commit in REPOSITORIES.items())
    np.savez_compressed(Path(__file__).with_name("fusion_tokens.npz"), made_by=made_by, **arrays)


if __name__ == "__main__":
    main()
