"""MulT against its authors' code; a stream for every ordered pair; padding at the end is no element."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.mult import Mult
from torch_weights import attention, dense, norm, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_tokens.npz")
NAMES = {"l": "audio", "a": "series", "v": "video"}  # in the order of theirs


def stream(w, name, crossed):
    blocks = {}
    for i in range(2):
        layer = f"{name}.layers.{i}"
        blocks[f"block_{i:02d}"] = {
            "attention": attention(w, f"{layer}.self_attn"),
            "norm_1": norm(w, f"{layer}.layer_norms.0"),
            "norm_2": norm(w, f"{layer}.layer_norms.1"),
            "mlp": {"in": dense(w, f"{layer}.fc1"), "out": dense(w, f"{layer}.fc2")},
            **({"norm_context": norm(w, f"{layer}.layer_norms.0")} if crossed else {}),  # theirs is the queries'
        }
    return {**blocks, "norm": norm(w, f"{name}.layer_norm")}


def test_is_the_authors_model_whatever_pads_the_sequences():
    w = weights(GOLDEN, "mult")
    params = {f"{NAMES[m]}_in": {"kernel": jnp.moveaxis(w[f"proj_{m}.weight"], -1, 0).swapaxes(1, 2)} for m in NAMES}
    params |= {f"{NAMES[m]}_own": stream(w, f"trans_{m}_mem", False) for m in NAMES}
    params |= {f"{NAMES[n]}_to_{NAMES[m]}": stream(w, f"trans_{m}_with_{n}", True) for m in NAMES for n in NAMES if m != n}
    given = {}
    for m, ours in NAMES.items():
        x = jnp.pad(jnp.asarray(GOLDEN[f"mult/x_{m}"]), ((0, 0), (0, 2), (0, 0)), constant_values=jnp.nan)
        valid = jnp.broadcast_to(jnp.arange(x.shape[1]) < x.shape[1] - 2, x.shape[:2])
        given[ours] = Encoding(x, valid, x[:, 0], valid[:, 0])
    module = Mult(width=4, depth=2, own_depth=2, heads=2)
    np.testing.assert_allclose(fused(module, {"params": params}, given).pooled, GOLDEN["mult/y"], atol=2e-5)


@pytest.mark.parametrize("count", [1, 4])
def test_a_stream_for_every_ordered_pair(count):
    given = encodings(**{m: (3, 4) for m in ("audio", "image", "text", "video")[:count]})
    module = Mult(width=4, depth=1, own_depth=1, heads=2)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), given, train=False))["params"]
    assert sum("_to_" in name for name in shapes) == count * (count - 1)
    assert jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), given, train=False)[0]).pooled.shape[1] == 4 * max(
        count * (count - 1), 1
    )


def test_an_odd_width():
    with pytest.raises(ConfigError, match="even width, not 5"):
        Mult(width=5, heads=1).init(jax.random.key(0), encodings(text=(3, 4)), train=False)
