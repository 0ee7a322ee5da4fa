"""Accelerators, as their makers publish them; figures are of one chip."""

from __future__ import annotations

import math
from typing import NamedTuple

from mmjax.config import ConfigError, nearest

GIB = 2**30


class Chip(NamedTuple):
    """One kind of chip. Bandwidths are of one direction."""

    name: str
    platform: str  # jax's: "tpu", "gpu" or, where nothing else is there, "cpu"
    kind: str  # what jax calls the device, or a part of it
    memory: int  # bytes of HBM
    usable: int  # of these, what a program may take
    flops: float  # bfloat16 operations a second at the most, dense
    memory_bandwidth: float  # bytes/s
    links: int  # to neighbours, in a torus; 1 is a switch between all chips of a host
    link_bandwidth: float  # bytes/s each
    network_bandwidth: float  # bytes/s a chip's share of what leaves its slice (TPU) or host (GPU)
    host: int  # chips of one machine
    slices: tuple[str, ...] = ()  # the shapes in which it can be had

    def slice(self, count: int) -> str:
        """The shape of so many chips.

        Raises:
            ConfigError: there is none.
        """
        sizes = {math.prod(map(int, shape.split("x"))): shape for shape in self.slices}
        if count not in sizes:
            known = ", ".join(f"{size:,}" for size in sizes)
            raise ConfigError(f"mesh: no slice of {self.name} has {count:,} chips: let the sizes multiply to one of {known}.")
        return sizes[count]


# TPUs: docs.cloud.google.com/tpu/docs/v5e, /v5p-training and /v6e, where bandwidths between chips are given for all links and
# both directions together (400, 1,200 and 800 GB/s), the network's a pod of 256 (6.4 and 25.6 Tbit/s) or, v5p, a chip (50 Gbit/s).
# `usable` is the limit in the messages of the compiler in libtpu 0.0.42.1.
# GPUs, the SXM ones: NVIDIA's data sheets; bfloat16 at half of what they give with sparsity, NVLink's 900 GB/s in both directions;
# the network is that of a DGX, 400 Gbit/s a GPU. `usable` is what JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise, 75 %.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16", "16x16x24")
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", "tpu", "TPU v5 lite", 16 * GIB, int(15.75 * GIB), 197e12, 819e9, 4, 50e9, 3.125e9, 8, _FLAT),
        Chip("v5p", "tpu", "TPU v5", 95 * GIB, int(95.74 * GIB), 459e12, 2765e9, 6, 100e9, 6.25e9, 4, _CUBES),
        Chip("v6e", "tpu", "TPU v6 lite", 32 * GIB, int(31.25 * GIB), 918e12, 1638e9, 4, 100e9, 12.5e9, 8, _FLAT),
        Chip("h100", "gpu", "H100", 80 * GIB, 60 * GIB, 989.4e12, 3350e9, 1, 450e9, 50e9, 8),
        Chip("h200", "gpu", "H200", 141 * GIB, 141 * GIB * 3 // 4, 989.4e12, 4800e9, 1, 450e9, 50e9, 8),
    )
}


def chip_of(name: str) -> Chip:
    """The chip of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in CHIPS:
        raise ConfigError(f"The chip {name!r} is unknown.{nearest(name, CHIPS)}")
    return CHIPS[name]
