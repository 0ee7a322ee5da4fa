"""Makes moments.npz: the maps of bitsandbytes, by the authors of the 8-bit optimizers, and what it makes of the numbers stored beside.

Blocks of 64 with a sign, and blocks without, by its kernel in Python, which finds the nearest value as those for GPUs do; the compiled
one for CPUs, which only comes close, is kept from loading. To run it again, with `torch` and `bitsandbytes` installed:

    python tests/golden/make_moments.py
"""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

with patch("ctypes.cdll.LoadLibrary", side_effect=OSError):
    import bitsandbytes
    import bitsandbytes.functional as F


def main():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 64, generator=generator) * 10 ** (-6 * torch.rand(8, 64, generator=generator))  # over six decades
    arrays = {}
    for name, numbers, signed in (("signed", x, True), ("plain", x**2, False)):
        code = F.create_dynamic_map(signed)
        quantized, state = F.quantize_blockwise(numbers, code=code, blocksize=64)
        arrays[f"{name}/map"], arrays[f"{name}/x"], arrays[f"{name}/codes"] = code.numpy(), numbers.numpy(), quantized.numpy()
        arrays[f"{name}/y"], arrays[f"{name}/scales"] = F.dequantize_blockwise(quantized, state).float().numpy(), state.absmax.numpy()
    made_by = f"bitsandbytes {bitsandbytes.__version__}; torch {torch.__version__}"
    np.savez_compressed(Path(__file__).with_name("moments.npz"), made_by=made_by, **arrays)


if __name__ == "__main__":
    main()
