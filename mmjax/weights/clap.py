"""CLAP of LAION, as transformers stores it, part by part: Wu et al., 2023, 'Large-Scale Contrastive Language-Audio Pretraining'.

init_from=dict(audio=dict(name="clap", path="laion/clap-htsat-unfused"), audio_projection=..., text=..., text_projection=...)

Encoders: `swin` with variant="htsat-T" or "htsat-B" (its larger models) and `text_transformer` with variant="clap", vocab=50265, in
an `aligner` of width=512 with projection=dict(audio="mlp", text="mlp"). It hears 10 seconds, a shorter clip over and over:

    pp=dict(audio="decode(48_000)|crop_or_pad(10, repeat=True)")
    batch_pp=dict(audio="log_mel(64, rate=48_000, window=0.02133, low=50.0, high=14_000.0, floor=1e-10, db=True)")

`Clap.config` says all of it.

Its own features mirror the clip at its ends, where these hear silence: of 1,001 frames the first and last two are others. Models
that fuse several crops of a long clip ("laion/clap-htsat-fused") are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.config import DataError
from mmjax.weights import bert
from mmjax.weights._files import Checkpoint
from mmjax.weights._layers import Row, below, converted, linear, norm, part_kind, patches, tower, variables
from mmjax.weights.resnet import batch_norm
from mmjax.weights.swin import stages

AUDIO = [
    Row("batch_norm", "input_norm", batch_norm),
    Row("patch_embed.proj", "embedding", patches),
    Row("patch_embed.norm", "embedding_norm", norm),
    *stages("layers"),
    Row("norm", "norm", norm),
]
PROJECTION = [Row("linear1", "hidden", linear), Row("linear2", "", linear)]
FUSED = "audio_model.audio_encoder.patch_embed.mel_conv2d.weight"


class Clap(Checkpoint):
    """The towers and projections of a checkpoint: `path` is a file, a folder, or a name on the hub."""

    def config(self) -> dict[str, Any]:
        """The model and data of a config that take all of it, `scale`, the factor of its similarities, and `sizes` of what it reads.

        Raises:
            DataError: as `load` raises it.
        """
        arrays, told = self._checked(), self.json("config.json")
        audio, text = below(arrays, "audio_model.audio_encoder."), below(arrays, "text_model.")
        names = [m for name in audio if (m := re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.layernorm_before\.weight", name))]
        depths = [sum(int(m[1]) == stage for m in names) for stage in range(1 + max(int(m[1]) for m in names))]
        tables = [audio[f"layers.{stage}.blocks.0.attention.self.relative_position_bias_table"] for stage in range(len(depths))]
        patch, bins, size = (
            audio["patch_embed.proj.weight"],
            len(audio["batch_norm.weight"]),
            told.get("audio_config", {}).get("spec_size", 256),
        )
        frames = min(1_001, size**2 // bins)
        words = text["embeddings.word_embeddings.weight"]
        length = min(77, len(text[bert.POSITIONS]) - 2)
        heads = told.get("text_config", {}).get("num_attention_heads")
        block, mlp = r"encoder\.layer\.(\d+)\.", r"encoder\.layer\.0\.intermediate\.dense\.weight"
        encoders = {
            "audio": {
                "name": "swin",
                "width": len(patch),
                "patch": patch.shape[2],
                "depths": depths,
                "heads": [table.shape[1] for table in tables],
                "window": (round(len(tables[0]) ** 0.5) + 1) // 2,
                "mlp_ratio": len(audio["layers.0.blocks.0.intermediate.dense.bias"]) / len(patch),
                "size": size,
            },
            "text": {"name": "text_transformer", "variant": "clap", "vocab": len(words), **tower(text, block, words.shape[1], mlp, heads)},
        }
        joint = len(arrays["text_projection.linear2.bias"])
        mel = f"log_mel({bins}, rate=48_000, window=0.02133, low=50.0, high=14_000.0, floor=1e-10, db=True)"
        return {
            "model": {"name": "aligner", "width": joint, "encoders": encoders, "projection": {"audio": "mlp", "text": "mlp"}},
            "pp": {"audio": f"decode(48_000)|crop_or_pad({(frames - 1) / 100:g}, repeat=True)", "text": f"tokens({length})"},
            "batch_pp": {"audio": mel},
            "scale": float(np.exp(arrays["logit_scale_a"])),
            "sizes": {"audio": (frames, bins), "text": (length,)},
        }

    def load(self, part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        """{"params": arrays} of `audio...`, `text...` or one of their projections, and the audio's batch statistics.

        Raises:
            DataError: it is no CLAP, or one that fuses; there is no such part, or a text has more tokens than it has positions.
        """
        arrays, kind = self._checked(), part_kind(part)
        if kind == "audio":
            unused = r".*relative_position_index|.*num_batches_tracked"
            return variables(converted(below(arrays, "audio_model.audio_encoder."), AUDIO, unused))
        if kind == "text":
            return {"params": bert.encoder(below(arrays, "text_model."), shapes, self.path)}
        if kind in ("audio_projection", "text_projection"):
            return {"params": converted(below(arrays, f"{kind}."), PROJECTION)}
        raise DataError(f"{self.path} has no part {part!r}: audio, text, audio_projection, text_projection.")

    def _checked(self) -> dict[str, np.ndarray]:
        arrays = self.arrays()
        if "audio_model.audio_encoder.batch_norm.weight" not in arrays:
            raise DataError(f"{self.path} is no CLAP: it has no audio_model.audio_encoder.batch_norm.weight.")
        if FUSED in arrays:
            raise DataError(f"{self.path} fuses several crops of a clip, which is not here: take one without, as laion/clap-htsat-unfused.")
        return arrays
