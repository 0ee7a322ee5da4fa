"""Makes bottleneck.npz: what the encoder of MBT's authors gives for the weights and inputs stored beside it.

It runs `scenic/projects/mbt/model.py` of google-research/scenic, which lies in a folder DIR at commit
4a38d475ee89cb821078c0e2bf2065ee030e1535, on the JAX and flax that are installed. What scenic imports besides, and none of it
computes here, is replaced by stand-ins. Positions are set to zero. To run it again:

    python tests/golden/make_bottleneck.py DIR
"""

import importlib.abc
import importlib.machinery
import sys
from pathlib import Path
from unittest.mock import MagicMock

import flax
import jax
import numpy as np

COMMIT = "4a38d475ee89cb821078c0e2bf2065ee030e1535"
STANDINS = ("tensorflow", "clu", "immutabledict", "scenic.projects.vivit")
ROWS, WIDTH, BOTTLENECKS = 2, 8, 3
LENGTHS = {"rgb": 5, "spectrogram": 4}


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if any(name == known or name.startswith(f"{known}.") for known in STANDINS):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return MagicMock(name=spec.name, __path__=[], __spec__=spec, __name__=spec.name)

    def exec_module(self, module):
        pass


def main():
    sys.meta_path.insert(0, StandIns())
    sys.path.insert(0, sys.argv[1])
    from scenic.projects.mbt.model import Encoder

    rng = np.random.default_rng(0)
    encoder = Encoder(2 * WIDTH, num_layers=3, num_heads=2, modality_fusion=tuple(LENGTHS), fusion_layer=1, use_bottleneck=True)
    tokens = {m: rng.normal(size=(ROWS, n, WIDTH)).astype(np.float32) for m, n in LENGTHS.items()}
    for x in tokens.values():
        x[:, 0] = x[0, 0]  # a class token, the same in every row
    bottleneck = np.broadcast_to(rng.normal(size=(1, BOTTLENECKS, WIDTH)).astype(np.float32), (ROWS, BOTTLENECKS, WIDTH))

    params = encoder.init(jax.random.key(0), dict(tokens), bottleneck, train=False)["params"]
    params = jax.tree.map(lambda leaf: np.asarray(leaf + 0.2 * rng.normal(size=leaf.shape), np.float32), params)
    for m in ("posembed_input", "posembed_input_spectrogram"):
        params[m] = jax.tree.map(np.zeros_like, params[m])
    y = encoder.apply({"params": params}, dict(tokens), bottleneck, train=False)

    flat = {f"weights/{name}": value for name, value in flax.traverse_util.flatten_dict(params, sep="/").items() if "posembed" not in name}
    made_by = f"scenic {COMMIT}; jax {jax.__version__}; flax {flax.__version__}"
    arrays = {**flat, **{f"x_{m}": x for m, x in tokens.items()}, "bottleneck": bottleneck[:1], "y": y}
    np.savez_compressed(Path(__file__).with_name("bottleneck.npz"), made_by=made_by, **arrays)


if __name__ == "__main__":
    main()
