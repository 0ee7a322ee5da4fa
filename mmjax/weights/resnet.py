"""ResNets with bottlenecks (50, 101, 152) as trained on ImageNet, as transformers, torchvision and timm store them: He et al., 2016.

init_from=dict(image=dict(name="resnet", path="timm/resnet50.a1_in1k"))

Encoder: `resnet` with norm="batch" and depths=(3, 4, 6, 3), (3, 4, 23, 3) or (3, 8, 36, 3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, conv, converted, variables


def batch_norm(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """Its scale and bias, and its running statistics."""
    return {f"batch/{ {'weight': 'scale', 'bias': 'bias', 'running_mean': 'mean', 'running_var': 'var'}[name] }": x}


# A block's layers: theirs by library, and ours.
HF_BLOCK = {f"layer.{i}.convolution": f"conv_{i + 1}" for i in range(3)} | {f"layer.{i}.normalization": f"norm_{i + 1}" for i in range(3)}
HF_BLOCK |= {"shortcut.convolution": "conv_shortcut", "shortcut.normalization": "norm_shortcut"}
TORCH_BLOCK = {f"conv{i}": f"conv_{i}" for i in (1, 2, 3)} | {f"bn{i}": f"norm_{i}" for i in (1, 2, 3)}
TORCH_BLOCK |= {"downsample.0": "conv_shortcut", "downsample.1": "norm_shortcut"}


def _rows(stem: tuple[str, str], block: str, parts: Mapping[str, str]) -> list[Row]:
    rows = [Row(stem[0], "stem", conv), Row(stem[1], "stem_norm", batch_norm)]
    for theirs, ours in parts.items():
        how = conv if ours.startswith("conv") else batch_norm
        rows.append(Row(f"{block}.{theirs}", f"stage_{{}}_block_{{:02d}}/{ours}", how))
    return rows


HF = _rows(("embedder.embedder.convolution", "embedder.embedder.normalization"), "encoder.stages.{}.layers.{}", HF_BLOCK)
TORCH = _rows(("conv1", "bn1"), "layer{}.{}", TORCH_BLOCK)
UNUSED = r"fc\..*|classifier\..*|.*\.num_batches_tracked"


class Resnet(Checkpoint):
    """The encoder of a checkpoint; its classifier is left out."""

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays, "batch_stats": arrays}.

        Raises:
            DataError: it is no ResNet of bottlenecks.
        """
        arrays = below(self.arrays(), "resnet.", "")
        hf = "embedder.embedder.convolution.weight" in arrays
        if not hf and "layer1.0.conv3.weight" not in arrays:
            raise DataError(f"{self.path} is no ResNet of bottlenecks: it has no layer1.0.conv3.weight.")
        found = converted(arrays, HF, UNUSED) if hf else converted(stages_from_zero(arrays), TORCH, UNUSED)
        return variables(found)


def stages_from_zero(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """torchvision's arrays with stages that count from 0, as ours do."""
    return {re.sub(r"^layer(\d+)", lambda m: f"layer{int(m[1]) - 1}", name): x for name, x in arrays.items()}
