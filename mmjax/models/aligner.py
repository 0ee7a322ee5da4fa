"""Any number of encoders into one unit sphere: CLIP (Radford et al., 2021) for two, ImageBind's shape for more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax import config
from mmjax.contract import Batch, Outputs
from mmjax.models._encoders import EncoderModel, Encoders, built, encode, owner
from mmjax.nn.norm import Norm
from mmjax.ops.masks import unit, zero_where_not

PROJECTIONS = ("linear", "affine", "mlp", "normed", "none")


class Projection(nn.Module):
    """A pooled vector to the common space; see `Aligner`."""

    width: int
    kind: str
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "B D"], present: Bool[Array, " B"], *, train: bool) -> Float[Array, "B width"]:
        if self.kind == "none":
            if x.shape[1] != self.width:
                raise config.ConfigError(
                    f"model.projection.{(self.name or '').removesuffix('_projection')}='none' leaves the encoder's width of {x.shape[1]}: "
                    f"model.width should be that, not {self.width}."
                )
            return x
        if self.kind == "normed":
            x = Norm("batch", "float32", name="norm")(x, present, train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.kind == "mlp":
            x = nn.relu(nn.Dense(self.width, name="hidden")(x))
        dense = nn.Dense(self.width, use_bias=self.kind in ("affine", "mlp"), name="dense")
        nn.share_scope(self, dense)  # its matrix is <stream>_projection/kernel
        return dense(x)


class Aligned(nn.Module):
    """Encodes every stream that the batch carries; see `Aligner`."""

    encoders: Encoders
    width: int
    projection: Mapping[str, str]
    dropout: float

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        outputs: Outputs = {}
        projections: dict[str, nn.Module] = {}
        for stream, encoding in encode(self.encoders, batch, train=train).items():
            name = owner(self.encoders, stream)
            if name not in projections:
                projections[name] = Projection(self.width, self.projection[name], self.dropout, name=f"{name}_projection")
            projection = projections[name]
            z = unit(projection(encoding.pooled.astype(jnp.float32), encoding.present, train=train))
            outputs[f"{stream}/z"] = zero_where_not(encoding.present, z)
            outputs[f"{stream}/pooled"] = zero_where_not(encoding.present, encoding.pooled)
            outputs[f"{stream}/tokens"] = encoding.tokens
            outputs[f"{stream}/valid"] = encoding.valid
        return outputs


class Aligner(EncoderModel):
    """Encoders and one projection each; outputs `<m>/z` [B, width] of unit norm, 0 where `<m>` is absent.

    What the projections are given stands in `<m>/pooled` [B, D], and in `<m>/tokens` [B, N, D] with `<m>/valid` [B, N].
    `encoders` maps streams to encoder configs; a string names the stream whose weights are shared
    (`image_view2="image"`). A batch may carry only some of the streams: the others are left out of the outputs.
    `projection` says by stream whether the pooled vector passes a matrix ("linear", the default: CLIP), a matrix and a
    bias ("affine": SigLIP's texts), two of these with ReLU between them ("mlp": CLAP), batch normalisation and a matrix
    ("normed": features of a frozen encoder, after He et al., 2022, 'Masked Autoencoders', app. A.1) or nothing ("none": SigLIP's
    images). `dropout` is of what a projection is given.
    """

    def __init__(self, encoders: Mapping[str, Any], width: int = 512, projection: Mapping[str, str] | None = None, dropout: float = 0.0):
        owners = [stream for stream, node in encoders.items() if not isinstance(node, str)]
        for stream, kind in (projection or {}).items():
            if stream not in owners:
                raise config.ConfigError(f"model.projection.{stream}: no such encoder.{config.nearest(stream, owners)}")
            if kind not in PROJECTIONS:
                raise config.ConfigError(f"model.projection.{stream}={kind!r} is unknown.{config.nearest(str(kind), PROJECTIONS)}")
        made = built(encoders)
        super().__init__(Aligned(made, width, {**dict.fromkeys(owners, "linear"), **(projection or {})}, dropout), made)
