"""Transformers over the tubelets of a video.

`attention="joint"`: every token attends to every other; VideoMAE's encoder (Tong et al., 2022, sec. 3) and ViViT's model 1 (Arnab
et al., 2021, sec. 3.3). "divided": first to the same place in all frames, then to its frame (TimeSformer: Bertasius et al.,
2021, sec. 3, 'divided space-time'). `variant="videomae-B"`, "vivit-B" and "timesformer-B" are published models.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Bool, Float

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.positions import learned_positions, nearest_sizes
from mmjax.nn.transformer import SIZES, Attention, Dtype, Mlp, Transformer, rematerialised
from mmjax.ops.masks import masked_mean, masks_of, valid_windows, zero_where_not

ATTENTIONS, POOLS, POSITIONS = ("joint", "divided"), ("mean", "class"), ("learned", "sincos")
VIDEOMAE = {"positions": "sincos", "norm": "pooled", "key_bias": False, "norm_epsilon": 1e-12}
TIMESFORMER = {"attention": "divided", "frames": 1, "pool": "class", "norm_epsilon": 1e-6}


def sincos_interleaved(count: int, dim: int) -> Float[np.ndarray, "N D"]:
    """Sines at even and cosines at odd places, as VideoMAE numbers all tokens of a video in a row."""
    angle = np.arange(count)[:, None] / 10_000.0 ** (2 * (np.arange(dim) // 2) / dim)
    return np.where(np.arange(dim) % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


class DividedBlock(nn.Module):
    """Attention over time, over space and an MLP, each on the normalised stream and added back; the class token sees every frame."""

    heads: int
    mlp_ratio: float
    dropout: float
    dtype: Dtype
    activation: str
    norm_epsilon: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T N D"], token: Float[Array, "B 1 D"], valid: Bool[Array, "B T"], *, train: bool
    ) -> tuple[Float[Array, "B T N D"], Float[Array, "B 1 D"]]:
        rows, frames, places, _ = x.shape
        drop = nn.Dropout(self.dropout, deterministic=not train)

        def norm(name):
            return nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name=name)

        y = rearrange(norm("norm_time")(x), "b t n d -> (b n) t d")
        y = Attention(self.heads, dtype=self.dtype, name="attention_time")(y, None, repeat(valid, "b t -> (b n) t", n=places))
        y = nn.Dense(x.shape[-1], dtype=self.dtype, name="out_time")(rearrange(y, "(b n) t d -> b t n d", n=places))
        x = x + drop(y)

        both = jnp.concatenate([jnp.broadcast_to(token[:, None], (rows, frames, 1, x.shape[-1])), x], axis=2)
        y = Attention(self.heads, dtype=self.dtype, name="attention")(rearrange(norm("norm_1")(both), "b t n d -> (b t) n d"))
        y = rearrange(drop(y), "(b t) n d -> b t n d", t=frames)
        x, token = x + y[:, :, 1:], token + masked_mean(y[:, :, 0], valid)[:, None]

        both = jnp.concatenate([token, rearrange(x, "b t n d -> b (t n) d")], axis=1)
        both = both + drop(Mlp(self.mlp_ratio, self.dropout, self.dtype, self.activation, name="mlp")(norm("norm_2")(both), train=train))
        return rearrange(both[:, 1:], "b (t n) d -> b t n d", t=frames), both[:, :1]


class VideoTransformer(nn.Module):
    """Videos [B, T, H, W, C] to a token a tubelet of `frames` x `patch` x `patch`, frame by frame, and a pooled vector [B, width].

    With pool="class" a class token stands first. A token is valid if all its frames are. `norm` is of all tokens, or of the
    pooled vector alone ("pooled"). Learned positions are those of initialisation: fewer frames or smaller images take the
    first of them, more are an error.
    """

    patch: int = 16
    frames: int = 2
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    attention: str = "joint"  # or "divided"
    pool: str = "mean"  # or "class"
    positions: str = "learned"  # or "sincos", with joint attention
    norm: str = "tokens"  # or "pooled"
    key_bias: bool = True
    dropout: float = 0.0
    dtype: Dtype = "float32"
    activation: str = "gelu_exact"
    norm_epsilon: float = 1e-6
    remat: bool | str = False  # less memory for more time, by a policy of `nn/transformer.py`
    scan: bool = False  # one program for all blocks, of `nn/transformer.py`

    variants = {
        **{f"videomae-{size}": {**SIZES[size], **VIDEOMAE} for size in ("S", "B", "L", "H")},
        **{f"vivit-{size}": {**SIZES[size], "pool": "class", "activation": "gelu"} for size in ("B", "L")},
        "timesformer-B": {**SIZES["B"], **TIMESFORMER},
    }

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T H W C"],
        valid: Bool[Array, "B T"] | None = None,
        present: Bool[Array, " B"] | None = None,
        *,
        train: bool,
    ) -> Encoding:
        self._check(x.shape)
        valid, present = masks_of(x, valid, present)
        x = zero_where_not(valid, x).astype(self.dtype)
        t, p = self.frames, self.patch
        valid = valid_windows(valid, t, t)
        x = rearrange(x, "b (t f) (h p) (w q) c -> b t h w (f p q c)", f=t, p=p, q=p)
        x = nn.Dense(self.width, dtype=self.dtype, name="embedding")(x)
        _, steps, height, width, _ = x.shape
        if self.positions == "sincos":
            table = sincos_interleaved(steps * height * width, self.width).reshape(1, steps, height, width, -1)
            x = x + jnp.asarray(table, x.dtype)
        elif self.attention == "divided":  # those of a place and of a frame, apart
            x = x + learned_positions(self, (height, width), self.width, "video_transformer").astype(x.dtype)[:, None]
            time = self.param("time_positions", nn.initializers.normal(0.02), (1, steps, self.width), jnp.float32)
            x = x + time[:, :, None, None].astype(x.dtype)
        else:
            x = x + learned_positions(self, (steps, height, width), self.width, "video_transformer").astype(x.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(rearrange(x, "b t h w d -> b t (h w) d"))
        here = repeat(valid, "b t -> b (t n)", n=height * width)
        token = None
        if self.pool == "class":
            token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, self.width), jnp.float32).astype(x.dtype)
            token, here = jnp.broadcast_to(token, (len(x), 1, self.width)), jnp.concatenate([valid.any(axis=1)[:, None], here], axis=1)
        x, stages = (self._divided if self.attention == "divided" else self._joint)(x, token, valid, here, train)
        pooled = x[:, 0] if token is not None else masked_mean(x, here)
        if self.norm == "pooled":
            pooled = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm")(pooled)
        return Encoding(x, here, pooled, present, stages=stages)

    def _check(self, shape: tuple[int, ...]) -> None:
        for key, known in {"attention": ATTENTIONS, "pool": POOLS, "positions": POSITIONS, "norm": ("tokens", "pooled")}.items():
            if getattr(self, key) not in known:
                raise ConfigError(f"video_transformer: {key}={getattr(self, key)!r} is unknown ({', '.join(known)}).")
        if self.attention == "divided" and (self.pool, self.positions, self.norm, self.scan) != ("class", "learned", "tokens", False):
            needs = "pool='class', positions='learned', norm='tokens' and scan=False"
            raise ConfigError(f"video_transformer: attention='divided' needs {needs}.")
        _, frames, height, width, _ = shape
        if frames % self.frames or height % self.patch or width % self.patch:
            fit = nearest_sizes((frames, height, width), (self.frames, self.patch, self.patch))
            raise ConfigError(
                f"video_transformer: tubelets of {self.frames} x {self.patch} x {self.patch} do not divide a video of "
                f"{frames} frames of {height} x {width}. Make it (frames x height x width) {fit}."
            )

    def _joint(self, x, token, valid, here, train):
        x = rearrange(x, "b t n d -> b (t n) d")
        x = x if token is None else jnp.concatenate([token, x], axis=1)
        return Transformer(
            self.depth,
            self.heads,
            self.mlp_ratio,
            dropout=self.dropout,
            dtype=self.dtype,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            remat=self.remat,
            scan=self.scan,
            key_bias=self.key_bias,
            final_norm=self.norm == "tokens",
            name="transformer",
        )(x, here, train=train)

    def _divided(self, x, token, valid, here, train):
        block, stages = rematerialised(DividedBlock, self.remat, lift=nn.remat), []
        for i in range(self.depth):
            make = block(self.heads, self.mlp_ratio, self.dropout, self.dtype, self.activation, self.norm_epsilon, name=f"block_{i:02d}")
            x, token = make(x, token, valid, train=train)
            stages.append(jnp.concatenate([token, rearrange(x, "b t n d -> b (t n) d")], axis=1))
        return nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm_tokens")(stages[-1]), tuple(stages)

    @classmethod
    def tiny(cls) -> tuple[VideoTransformer, dict[str, np.ndarray]]:
        """A small instance of divided attention, and a batch of ragged lengths for it."""
        valid = np.arange(4) < np.array([4, 2, 1, 3])[:, None]
        video = np.random.default_rng(0).uniform(-1, 1, (4, 4, 8, 4, 3)).astype(np.float32)
        return cls(patch=4, width=16, depth=2, heads=2, **TIMESFORMER), {"video": video, "video/valid": valid}
