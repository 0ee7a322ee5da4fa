"""ImageBind, as its authors store it (`imagebind_huge.pth`): Girdhar et al., 2023, 'ImageBind: One Embedding Space To Bind Them All'.

init_from=dict(image=dict(name="imagebind", path=P), image_projection=dict(name="imagebind", path=P), audio=..., audio_projection=...)

By stream, in an `aligner` of width 1024:
    image           `vit`, variant="imagebind-H/14"; pixels standardised as CLIP's
    text            `text_transformer`, variant="imagebind", vocab=49408; CLIP's tokenizer, 77 tokens
    audio           `spectrogram_transformer`, variant="imagebind"; 204 frames of 128 log-mel bins, computed and scaled as AST's
    image_depth     `vit`, variant="imagebind-depth"; [224, 224, 1] of scaled disparity
    image_thermal   `vit`, variant="imagebind-thermal"; [224, 224, 1]
    series          `series_transformer`, variant="imagebind"; 2,000 steps of accelerometer and gyroscope, six channels
It saw an image as two equal frames, so the kernel of its patches is summed over them; videos of two different ones are not
taken. What its similarities are multiplied with says `Imagebind.scales`. Its weights are for non-commercial use (CC-BY-NC).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from einops import rearrange

from mmjax.config import DataError
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, blocks, converted, embedding, linear, norm, packed, patches, resized
from mmjax.weights.ast import mel_patches
from mmjax.weights.bert import shortened
from mmjax.weights.vivit import gridded

STREAMS = {"image": "vision", "text": "text", "audio": "audio", "image_depth": "depth", "image_thermal": "thermal", "series": "imu"}
CHANNELS = 6  # of a series
BLOCK = (
    ("attn", "attention", packed),
    ("attn.out_proj", "attention/out", linear),
    ("norm_1", "norm_1", norm),
    ("norm_2", "norm_2", norm),
    ("mlp.fc1", "mlp/in", linear),
    ("mlp.fc2", "mlp/out", linear),
)
TABLE = [
    Row("token_embedding", "embedding", embedding),
    Row("norm_layer", "norm_patches", norm),
    Row("pre_transformer_layer.0", "norm_pre", norm),
    *blocks("blocks", BLOCK),
]
UNNAMED = r"^\w+_stem\.|^pos_embedding_helper\.|(?<=stem\.proj)\.1"  # what differs in names from one modality to the next


def _frames(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """A convolution over two frames to a dense layer on the patches of one that stands for both."""
    return patches(name, x.sum(axis=2))


def _steps(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """Channel by channel to step by step."""
    return {"kernel": rearrange(x, "d (c p) -> (p c) d", c=CHANNELS)}


# By modality: how the layer of its patches is turned, and its head's norm and linear layer.
PATCHES = {"vision": _frames, "text": patches, "audio": mel_patches, "depth": patches, "thermal": patches, "imu": _steps}
HEADS = {**dict.fromkeys(PATCHES, ("0", "2")), "text": ("proj.0", "proj.1"), "imu": ("0", "3")}


class Imagebind(Checkpoint):
    """The encoders and projections of a checkpoint.

    Raises:
        DataError: it cannot be read, or is no ImageBind.
    """

    def scales(self) -> dict[str, float]:
        """{stream: what its unit vectors are multiplied with}: their product over two streams is what its softmax saw."""
        names = {stream: f"modality_postprocessors.{m}.1.log_logit_scale" for stream, m in STREAMS.items() if m != "vision"}
        for name in names.values():
            if name not in self.arrays():
                raise DataError(f"{self.path} is no ImageBind: it has no {name}.")
        return {"image": 1.0, **{stream: float(min(np.exp(self.arrays()[name]), 100)) for stream, name in names.items()}}

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays} of a stream's encoder or of its projection; positions of images fit the size that is wanted.

        Raises:
            DataError: it is no ImageBind, has no such part, or audio of another number of patches than is wanted.
        """
        stream = part.removesuffix("_projection")
        modality = STREAMS.get(stream) or STREAMS.get(stream.split("_", 1)[0])
        if modality is None:
            raise DataError(f"{self.path} has no part {part!r}: {', '.join(STREAMS)}.")
        arrays: dict[str, np.ndarray] = {}
        for begin in ("preprocessors", "trunks", "heads"):
            arrays |= {re.sub(UNNAMED, "", name): x for name, x in below(self.arrays(), f"modality_{begin}.{modality}.").items()}
        first, last = HEADS[modality]
        for name in (f"{last}.weight", "pos_embed", *(["cls_token"] if modality != "text" else [])):
            if name not in arrays:
                raise DataError(f"{self.path} is no ImageBind: its {modality} has no {name}.")
        if part.endswith("_projection"):
            return {"params": linear("weight", arrays[f"{last}.weight"])}
        token, positions = arrays.pop("cls_token", None), arrays.pop("pos_embed")
        own = [Row("proj", "embedding", PATCHES[modality]), Row(first, "transformer/norm", norm)]
        found = converted(arrays, [*TABLE, *own], rf"mask|{last}\.weight")
        if token is None:
            return {"params": {**found, "positions": shortened(positions[0], shapes, self.path)[None]}}
        if modality == "imu":  # the class token's position is added to it
            return {"params": {**found, "class_token/tokens": token + positions[:, :1], "positions/positions": positions[:, 1:]}}
        found["extra_tokens"] = token
        if modality == "audio":
            return {"params": {**found, "extra_positions": positions[:, :1], "positions": gridded(positions[:, 1:], shapes, self.path)}}
        wanted = shapes["positions"][1] if "positions" in shapes else positions.shape[1]
        return {"params": {**found, "positions": resized(positions, wanted, 1, self.path)}}
