"""What is cheaper on the device than on the host: the first thing that a jitted step does with a batch."""

from __future__ import annotations

import jax.numpy as jnp

from mmjax.contract import Batch, kind, streams


def batch_pp(batch: Batch) -> dict:
    """uint8 images and videos to float32 in [-1, 1]; everything else as it is."""
    out = dict(batch)
    for stream in streams(batch):
        if kind(stream) in ("image", "video") and batch[stream].dtype == jnp.uint8:
            out[stream] = batch[stream].astype(jnp.float32) * (2 / 255) - 1
    return out
