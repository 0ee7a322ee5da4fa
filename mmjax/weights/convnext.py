"""ConvNeXt as trained on ImageNet, as transformers, torchvision's successors and timm store it: Liu et al., 2022.

init_from=dict(image=dict(name="convnext", path="facebook/convnext-tiny-224"))

Encoder: `convnext` with the variant that the checkpoint is called after. Its scales of residuals (LayerScale) are multiplied
into the layer before them, which is the same function.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, conv, converted, linear, norm, scaled

HF = [
    Row("embeddings.patch_embeddings", "stage_0_conv", conv),
    Row("embeddings.layernorm", "stage_0_norm", norm),
    Row("encoder.stages.{}.downsampling_layer.0", "stage_{}_norm", norm),
    Row("encoder.stages.{}.downsampling_layer.1", "stage_{}_conv", conv),
    Row("encoder.stages.{}.layers.{}.dwconv", "stage_{}_block_{:02d}_depthwise", conv),
    Row("encoder.stages.{}.layers.{}.layernorm", "stage_{}_block_{:02d}_norm", norm),
    Row("encoder.stages.{}.layers.{}.pwconv1", "stage_{}_block_{:02d}_mlp/in", linear),
    Row("encoder.stages.{}.layers.{}.pwconv2", "stage_{}_block_{:02d}_mlp/out", linear),
    Row("layernorm", "norm", norm),
]
TIMM = [
    Row("stem.0", "stage_0_conv", conv),
    Row("stem.1", "stage_0_norm", norm),
    Row("stages.{}.downsample.0", "stage_{}_norm", norm),
    Row("stages.{}.downsample.1", "stage_{}_conv", conv),
    Row("stages.{}.blocks.{}.conv_dw", "stage_{}_block_{:02d}_depthwise", conv),
    Row("stages.{}.blocks.{}.norm", "stage_{}_block_{:02d}_norm", norm),
    Row("stages.{}.blocks.{}.mlp.fc1", "stage_{}_block_{:02d}_mlp/in", linear),
    Row("stages.{}.blocks.{}.mlp.fc2", "stage_{}_block_{:02d}_mlp/out", linear),
    Row("head.norm", "norm", norm),
]
SCALES = {r"(.*)\.layer_scale_parameter": "{}.pwconv2", r"(stages\..*)\.gamma": "{}.mlp.fc2"}


class Convnext(Checkpoint):
    """The encoder of a checkpoint; its classifier is left out."""

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays}.

        Raises:
            DataError: it is no ConvNeXt.
        """
        arrays = below(self.arrays(), "convnext.", "")
        hf = "embeddings.patch_embeddings.weight" in arrays
        if not hf and "stages.0.blocks.0.conv_dw.weight" not in arrays:
            raise DataError(f"{self.path} is no ConvNeXt: it has no stages.0.blocks.0.conv_dw.weight.")
        return {"params": converted(scaled(arrays, SCALES), HF if hf else TIMM, r"classifier\..*|head\.fc\..*")}
