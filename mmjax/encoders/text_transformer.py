"""Transformer over token ids.

Causal with end-of-text pooling is CLIP's text tower (Radford et al., 2021, sec. 2.4) and GPT-2 (Radford et al., 2019);
bidirectional with mean or class pooling is an encoder in BERT's manner, with `post_norm` BERT (Devlin et al., 2019);
bidirectional with end-of-text pooling is SigLIP's (Zhai et al., 2023). `variant="B"` is a published size, `"clip-B"` the text
tower beside CLIP's ViT-B, `"coca-B"` that beside CoCa's (Yu et al., 2022), `"imagebind"` ImageBind's (Girdhar et al., 2023),
`"clap"` CLAP's (Wu et al., 2023); `"bert-B"`, `"roberta-B"`, `"minilm-L6"` and `"gpt2"` are the models of these names.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.nn.transformer import SIZES, Dtype, Transformer
from mmjax.ops.masks import masked_last, masked_mean, masks_of, zero_where_not

BERT = {"causal": False, "pool": "class", "post_norm": True, "activation": "gelu_exact", "norm_epsilon": 1e-12}
GPT2 = {"": (768, 12, 12), "-medium": (1024, 24, 16), "-large": (1280, 36, 20), "-xl": (1600, 48, 25)}
CLIP = {"depth": 12, "activation": "quick_gelu", "norm_epsilon": 1e-5}
COCA = {**CLIP, "activation": "gelu_exact", "class_token": True}


class TextTransformer(nn.Module):
    """Token ids [B, L] to one token each and a pooled vector [B, width]. `vocab` is the number of embeddings.

    With `class_token` another one stands behind them, at L, and is what pool="end" takes. As in open_clip's CoCa, whose published
    weights were trained so, attention's mask lies one position late: of a text that is padded it sees the first padding, not itself.
    """

    vocab: int
    width: int = 512
    depth: int = 12
    heads: int = 8
    mlp_ratio: float = 4.0
    causal: bool = True
    pool: str = "end"  # the last valid token; or "mean", "class" (the first token), "pooler" (that one through BERT's dense tanh layer)
    dropout: float = 0.0
    dtype: Dtype = "float32"
    activation: str = "gelu"  # of `nn/transformer.py`
    norm_epsilon: float = 1e-6
    remat: bool | str = False  # less memory for more time, by a policy of `nn/transformer.py`
    scan: bool = False  # one program for all blocks, of `nn/transformer.py`
    post_norm: bool = False  # sums are normalised, as in BERT, and not what goes into them
    class_token: bool = False
    fp8: bool = False  # the blocks' dense layers multiply in 8 bits: see `nn/fp8.py`

    variants = {
        **SIZES,
        "clip-B": {"width": 512, "heads": 8, **CLIP},
        "clip-L": {"width": 768, "heads": 12, **CLIP},
        "coca-B": {"width": 512, "heads": 8, **COCA},
        "coca-L": {"width": 768, "heads": 12, **COCA},
        "imagebind": {**SIZES["L"], "activation": "gelu_exact"},
        "bert-B": {**SIZES["B"], **BERT},
        "bert-L": {**SIZES["L"], **BERT},
        "roberta-B": {**SIZES["B"], **BERT, "norm_epsilon": 1e-5},
        "roberta-L": {**SIZES["L"], **BERT, "norm_epsilon": 1e-5},
        "clap": {**SIZES["B"], **BERT, "pool": "pooler"},
        "minilm-L6": {"width": 384, "depth": 6, "heads": 12, **BERT, "pool": "mean"},
        "minilm-L12": {"width": 384, "depth": 12, "heads": 12, **BERT, "pool": "mean"},
        **{f"gpt2{n}": {"width": w, "depth": d, "heads": h, "norm_epsilon": 1e-5} for n, (w, d, h) in GPT2.items()},
    }

    @nn.compact
    def __call__(
        self, x: Int[Array, "B L"], valid: Bool[Array, "B L"] | None = None, present: Bool[Array, " B"] | None = None, *, train: bool
    ) -> Encoding:
        if self.pool not in ("end", "mean", "class", "pooler"):
            raise ConfigError(f"text_transformer: pool={self.pool!r} is unknown (end, mean, class, pooler).")
        if self.causal and self.pool in ("class", "pooler"):
            raise ConfigError(f"text_transformer: with causal=True the first token sees nothing; pool={self.pool!r} needs causal=False.")
        length = x.shape[1] + self.class_token
        valid, present = masks_of(x, valid, present)

        table = nn.Embed(self.vocab, self.width, dtype=self.dtype, embedding_init=nn.initializers.normal(0.02), name="embedding")
        positions = self.param("positions", nn.initializers.normal(0.01), (1, length, self.width), jnp.float32)
        tokens, seen = table(zero_where_not(valid, x)), valid
        if self.class_token:
            token = self.param("class_token", nn.initializers.normal(0.01), (1, 1, self.width), jnp.float32).astype(self.dtype)
            tokens = jnp.concatenate([tokens, jnp.broadcast_to(token, (len(x), 1, self.width))], axis=1)
            seen = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
            valid = jnp.concatenate([valid, present[:, None]], axis=1)
        tokens = tokens + positions.astype(self.dtype)
        tokens = nn.Dropout(self.dropout, deterministic=not train)(tokens)
        tokens, stages = Transformer(
            self.depth,
            self.heads,
            self.mlp_ratio,
            self.causal,
            self.dropout,
            self.dtype,
            self.activation,
            self.norm_epsilon,
            self.remat,
            self.post_norm,
            scan=self.scan,
            fp8=self.fp8,
            name="transformer",
        )(tokens, seen, train=train)
        return Encoding(tokens, valid, self._pooled(tokens, valid), present, stages=stages)

    def _pooled(self, tokens: Float[Array, "B L D"], valid: Bool[Array, "B L"]) -> Float[Array, "B D"]:
        if self.pool == "mean":
            return masked_mean(tokens, valid)
        if self.pool == "class":
            return tokens[:, 0]
        if self.pool == "pooler":
            return nn.tanh(nn.Dense(self.width, dtype=self.dtype, name="pooler")(tokens[:, 0]))
        return masked_last(tokens, valid)

    @classmethod
    def tiny(cls) -> tuple[TextTransformer, dict[str, np.ndarray]]:
        """A small instance and a batch of ragged lengths for it."""
        rng = np.random.default_rng(0)
        valid = np.arange(6) < np.array([6, 3, 1, 4])[:, None]
        return cls(vocab=11, width=16, depth=2, heads=2), {"text": rng.integers(3, 11, (4, 6), dtype=np.int32), "text/valid": valid}
