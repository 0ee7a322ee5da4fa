"""Makes fusion_bilinear.npz: what published code gives for bilinear fusions of two modalities.

It runs the fusion modules of these two source packages of PyPI, unpacked side by side in a folder DIR:

    block.bootstrap.pytorch 0.1.6    MLB, MFB, MFH, Tucker, MUTAN, BLOCK, block-Tucker, MCB
    mmf 1.0.0rc10                    the same, found equal here, and another MCB

    pip download --no-deps --no-binary :all: block.bootstrap.pytorch==0.1.6 mmf==1.0.0rc10 -d DIR

What they need besides PyTorch and none of it computes here is replaced by stand-ins. Both MCBs were written for a PyTorch whose
Fourier transforms had other names and real pairs for complex numbers: these are given to them. To run it again, with the extra
`torch`:

    python tests/golden/make_fusion_bilinear.py DIR
"""

import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from make_fusion_products import load, randomised

PACKAGES = {"block.bootstrap.pytorch": "0.1.6", "mmf": "1.0.0rc10"}
ROWS, WIDTHS, INNER, OUT = 3, (4, 5), 6, 7
CASES = {  # as published where that is not the packages' default: MLB with tanh, MFB without an activation
    "MLB": dict(activ_input="tanh", activ_output=None),
    "MFB": dict(factor=2, activ_input=None, activ_output=None, normalize=True),
    "MFH": dict(factor=2, activ_output=None, normalize=True),
    "Mutan": dict(rank=2),
    "Tucker": dict(),
    "Block": dict(chunks=2, rank=3),
    "BlockTucker": dict(chunks=2),
    "MCB": dict(activ_output=None),
}


def published(folder):
    """The modules of the two packages that hold fusions."""
    roots = {name: folder / f"{name}-{version}" for name, version in PACKAGES.items()}
    sys.modules.update({name: MagicMock() for name in ("bootstrap", "bootstrap.lib", "bootstrap.lib.logger")})
    sys.path.insert(0, str(roots["block.bootstrap.pytorch"]))
    block = import_module("block.models.networks.fusions.fusions")
    general = load(roots["mmf"] / "mmf" / "utils" / "general.py", ["mmf", "mmf.utils", "mmf.utils.distributed", "mmf.utils.file_io"])
    keeps = SimpleNamespace(registry=SimpleNamespace(register_fusion=lambda name: lambda cls: cls))
    stand_ins = {"mmf.common.registry": keeps, "mmf.utils.general": general}
    mmf = load(roots["mmf"] / "mmf" / "modules" / "fusions.py", ["mmf", "mmf.common", "mmf.utils"], **stand_ins)
    return block, mmf


def old_rfft(x, signal_ndim):
    return torch.view_as_real(torch.fft.rfft(x))


def old_irfft(x, signal_ndim, signal_sizes):
    return torch.fft.irfft(torch.view_as_complex(x), signal_sizes[0])


def run(module, xs, weight):
    """What stands before the last layer and behind it, and the gradients of the inputs."""
    seen = []
    module.linear_out.register_forward_hook(lambda *args: seen.append(args[1][0]))
    y = module(xs)
    grads = torch.autograd.grad((y * weight).sum(), xs)
    return {"z": seen[0], "y": y, **{f"grad_{i}": g for i, g in enumerate(grads)}}


def main(folder):
    torch.manual_seed(0)  # the hashes
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    block, mmf = published(folder)
    arrays = {
        "about": np.array("Published code, run by make_fusion_bilinear.py: " + ", ".join(f"{k}=={v}" for k, v in PACKAGES.items())),
        "torch": np.array(torch.__version__),
    }
    xs = [draw(ROWS, width, requires_grad=True) for width in WIDTHS]
    weight = draw(ROWS, OUT)
    kept = {"inputs": {**{str(i): x for i, x in enumerate(xs)}, "weight": weight}}
    for name, options in CASES.items():
        first, second = (getattr(package, name)(WIDTHS, OUT, mm_dim=INNER, **options) for package in (block, mmf))
        randomised(first, generator)
        state = first.state_dict()
        if name == "MCB":
            for i, sketch in enumerate((first.mcb.sketch1, first.mcb.sketch2), 1):
                matrix = second.mcb.generate_sketch_matrix(sketch.h, sketch.s, len(sketch.h), INNER)
                setattr(second.mcb, f"sketch{i}", torch.nn.Parameter(matrix, requires_grad=False))
            second.linear_out.load_state_dict(first.linear_out.state_dict())
        else:
            second.load_state_dict(state)
        found = run(first, xs, weight)
        other = run(second.eval(), xs, weight)
        scale = INNER if name == "MCB" else 1  # by so much mmf's sketch is longer
        torch.testing.assert_close(other["z"], scale * found["z"], atol=1e-6, rtol=1e-6)
        kept[name] = {**found, **{f"weights/{key}": value for key, value in state.items()}}
        if name == "MCB":
            kept[name]["z_mmf"] = other["z"]
    for case, values in kept.items():
        arrays |= {f"{case}/{name}": np.array(value.detach(), np.float32) for name, value in values.items()}
    np.savez_compressed(Path(__file__).with_name("fusion_bilinear.npz"), **arrays)


if __name__ == "__main__":
    with patch.multiple(torch, create=True, rfft=old_rfft, irfft=old_irfft):
        main(Path(sys.argv[1]))
