"""Makes polynomial.npz: what the two-level model of HPFN's authors gives for the weights and inputs stored beside it.

It runs `MOSI/model.py` of jiajiatang0000/HPFN, which lies in a folder DIR at commit f5ad96054780c45f2f9833d564370bb4e39d545e. The
networks before, one a modality, are left out. To run it again, with the extra `torch`:

    python tests/golden/make_polynomial.py DIR
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

COMMIT = "f5ad96054780c45f2f9833d564370bb4e39d545e"
ROWS, WINDOWS, SIZES, WIDTHS, RANK = 4, 2, (2, 3, 4), (5, 6), 3  # sizes of audio, video and text


def main():
    sys.path.insert(0, str(Path(sys.argv[1]) / "MOSI"))
    from model import FNL2NO

    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(ROWS, WINDOWS, size, generator=generator) for size in SIZES]
    arrays = {f"x_{m}": x.numpy() for m, x in zip(("audio", "video", "text"), inputs, strict=True)}
    for case, order, norm in (("plain", 3, 0), ("normalized", 2, 1)):
        orders = (order - 1,) * 2
        model = FNL2NO(orders, norm, norm, SIZES, SIZES, WIDTHS, WINDOWS, 1, (), (0, 0), 3, (3, 1), (0, 0), (0.0, 0.0, 0.0), RANK)
        model.audio_subnet = model.video_subnet = model.text_subnet = nn.Identity()
        with torch.no_grad():
            for value in model.parameters():
                value.copy_(0.5 * torch.randn(value.shape, generator=generator))
            arrays[f"{case}/y"] = model(*inputs).reshape(ROWS, -1).numpy()
        arrays |= {f"{case}/weights/{name}": value.detach().numpy() for name, value in model.named_parameters()}
    arrays["made_by"] = f"jiajiatang0000/HPFN {COMMIT}; torch {torch.__version__}"
    np.savez_compressed(Path(__file__).with_name("polynomial.npz"), **arrays)


if __name__ == "__main__":
    main()
