"""EfficientNet-Lite: Tan & Le, 2019, 'EfficientNet', without squeeze-and-excitation and with ReLU6 (Liu, 2020, the released models).

Small and quick, also on a CPU. `mmjax/weights/efficientnet_lite.py` has weights that were trained on ImageNet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Shaped

from mmjax.contract import BATCH_AXES, Encoding
from mmjax.nn.norm import Norm
from mmjax.nn.transformer import Dtype
from mmjax.ops.layout import axis_size
from mmjax.ops.masks import zero_where_not

# Kernel, stride of the first block, expansion, output channels, blocks (Tan & Le, table 1).
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))
STEM, HEAD, EPSILON = 32, 1280, 1e-3
PART = 16  # images, whose maps stay in a CPU's caches


class Depthwise(nn.Module):
    """A convolution of every channel by itself, "SAME" as in TensorFlow.

    Written as a sum over the kernel's places, which XLA fuses: on a CPU much faster than its grouped convolution.
    """

    kernel: int
    stride: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal", in_axis=(), out_axis=(0, 1), batch_axis=2)
        kernel = self.param("kernel", init, (self.kernel, self.kernel, x.shape[-1]), jnp.float32).astype(self.dtype)
        height, width = (-(-n // self.stride) for n in x.shape[1:3])
        missing = [max((out - 1) * self.stride + self.kernel - n, 0) for out, n in zip((height, width), x.shape[1:3], strict=True)]
        x = jnp.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)))

        def places(start: int, count: int) -> slice:
            return slice(start, start + (count - 1) * self.stride + 1, self.stride)

        y = jnp.zeros((x.shape[0], height, width, x.shape[-1]), x.dtype)
        for i, j in np.ndindex(self.kernel, self.kernel):
            y = y + x[:, places(i, height), places(j, width)] * kernel[None, None, None, i, j]
        return y


class Pointwise(nn.Module):
    """A convolution of 1 x 1 without bias, as the matrix product that it is: XLA makes more of that on a CPU."""

    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (1, 1, x.shape[-1], self.width), jnp.float32)
        return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0].astype(self.dtype))


class Block(nn.Module):
    """Expansion, depthwise convolution and projection, around a shortcut where the shape stays (Sandler et al., 2018)."""

    kernel: int
    stride: int
    expansion: int
    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], present: Bool[Array, " B"], *, train: bool) -> Float[Array, "B h w D"]:
        y = x
        if self.expansion != 1:
            y = Pointwise(self.expansion * x.shape[-1], self.dtype, name="expand")(y)
            y = nn.relu6(Norm("batch", self.dtype, epsilon=EPSILON, name="expand_norm")(y, present, train=train))
        y = Depthwise(self.kernel, self.stride, self.dtype, name="depthwise")(y)
        y = nn.relu6(Norm("batch", self.dtype, epsilon=EPSILON, name="depthwise_norm")(y, present, train=train))
        y = Pointwise(self.width, self.dtype, name="project")(y)
        y = Norm("batch", self.dtype, epsilon=EPSILON, name="project_norm")(y, present, train=train)
        return x + y if x.shape == y.shape else y


def in_parts(rows: int) -> bool:
    """Whether a frozen tower sees a batch in parts: on one CPU device, whose caches then hold its maps."""
    alone = all(axis_size(axis) == 1 for axis in BATCH_AXES)
    return jax.default_backend() == "cpu" and alone and rows > PART and rows % PART == 0


class EfficientnetLite(nn.Module):
    """Images [B, H, W, 3] to the last map's positions as tokens and their mean, [B, 1280].

    `frozen` keeps batch statistics as they are and lets no gradient in; `optimizer.rules` should freeze the parameters too.
    """

    width_factor: float = 1.0
    depth_factor: float = 1.0
    stages: Sequence[Sequence[int]] = STAGES
    dropout: float = 0.0  # of the pooled vector
    frozen: bool = False
    dtype: Dtype = "float32"

    # lukemelas' and TensorFlow's coefficients of the released models
    variants = {
        f"lite{i}": {"width_factor": width, "depth_factor": depth}
        for i, (width, depth) in enumerate(((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8)))
    }

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W 3"],
        valid: Shaped[Array, "..."] | None = None,
        present: Bool[Array, " B"] | None = None,
        *,
        train: bool,
    ) -> Encoding:
        present = jnp.ones(x.shape[0], bool) if present is None else present
        if self.frozen and not (train and self.dropout) and not self.is_initializing() and in_parts(len(x)):
            return self._part_by_part(x, present)
        x = zero_where_not(present, x).astype(self.dtype)
        x = (127.5 * x + 0.5) / 128  # the released models were given (pixels - 127) / 128
        adapt = train and not self.frozen
        x = nn.Conv(STEM, (3, 3), strides=2, padding="SAME", use_bias=False, dtype=self.dtype, name="stem")(x)
        x = nn.relu6(Norm("batch", self.dtype, epsilon=EPSILON, name="stem_norm")(x, present, train=adapt))
        stages, i = [], 0
        for stage, (kernel, stride, expansion, width, blocks) in enumerate(self.stages):
            outer = stage in (0, len(self.stages) - 1)  # these two are as deep in every size
            for block in range(blocks if outer else math.ceil(self.depth_factor * blocks)):
                own = Block(kernel, 1 if block else stride, expansion, self._channels(width), self.dtype, name=f"block_{i:02d}")
                x, i = own(x, present, train=adapt), i + 1
            stages.append(rearrange(x, "b h w c -> b (h w) c"))
        x = Pointwise(HEAD, self.dtype, name="head")(x)
        x = nn.relu6(Norm("batch", self.dtype, epsilon=EPSILON, name="head_norm")(x, present, train=adapt))
        tokens = rearrange(x, "b h w c -> b (h w) c")
        if self.frozen:
            tokens, stages = jax.lax.stop_gradient((tokens, stages))
        pooled = nn.Dropout(self.dropout, deterministic=not train)(tokens.mean(axis=1))
        return Encoding(tokens, jnp.broadcast_to(present[:, None], tokens.shape[:2]), pooled, present, stages=tuple(stages))

    def _part_by_part(self, x: Float[Array, "B H W 3"], present: Bool[Array, " B"]) -> Encoding:
        part, variables = self.clone(parent=None), self.variables
        parts = jax.tree.map(lambda x: x.reshape(-1, PART, *x.shape[1:]), (x, present))
        made = jax.lax.map(lambda given: part.apply(variables, given[0], None, given[1], train=False), parts)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), made)

    def _channels(self, width: int) -> int:
        """Scaled to a multiple of 8, not below nine tenths of what it should be."""
        scaled = width * self.width_factor
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    @classmethod
    def tiny(cls) -> tuple[EfficientnetLite, dict[str, np.ndarray]]:
        """A small instance, and a batch for it."""
        image = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
        return cls(width_factor=0.5, stages=((3, 1, 1, 16, 1), (5, 2, 2, 16, 2))), {"image": image}
