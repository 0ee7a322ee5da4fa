"""What the tests of fusions by products share: `fusion_products.npz`, and encodings and parameters from plain arrays."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from mmjax.contract import Encoding

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_products.npz")


def golden(case):
    """{name: array} of one case."""
    return {name.removeprefix(f"{case}/"): GOLDEN[name] for name in GOLDEN.files if name.startswith(f"{case}/")}


def inputs(*numbers):
    """The golden inputs of these numbers, [3, 4], [3, 5] and [3, 6], as modalities a, b, c."""
    return encodings(**{name: GOLDEN[f"inputs/{i}"] for name, i in zip("abc", numbers, strict=False)})


def encodings(absent=(), **pooled):
    """{modality: its encoding}; `absent` are pairs of modality and row, which hold NaN."""
    found = {}
    for m, x in pooled.items():
        present = np.array([(m, row) not in absent for row in range(len(x))])
        found[m] = Encoding.from_pooled(jnp.asarray(np.where(present[:, None], x, np.nan), jnp.float32), jnp.asarray(present))
    return found


def dense(kernel, bias=None):
    """A dense layer's parameters."""
    kernel = jnp.asarray(kernel, jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1]) if bias is None else jnp.asarray(bias, jnp.float32)}


def identity(width, inputs=None):
    """A dense layer that passes its inputs on, or the first `width` of them."""
    return dense(np.eye(inputs or width, width))


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
