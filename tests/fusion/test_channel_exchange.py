"""Channel exchange against its authors' code; what is exchanged, and what never is."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.channel_exchange import ChannelExchange
from torch_weights import dense, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_attention.npz")


def test_is_the_authors_exchange_where_only_a_modalitys_own_part_is_small():
    """Theirs looks at all channels, of which the penalty shrinks only the own part."""
    w, given = weights(GOLDEN, "cen"), {}
    params = {"in_0": {"kernel": w["in.module.weight"].T}, "out_0": dense(w, "out.module"), "ensemble": jnp.zeros((1, 2))}
    stats = {}
    for i, (m, theirs) in enumerate((("audio", "x"), ("text", "y"))):
        x = jnp.asarray(GOLDEN[f"cen/{theirs}"])[:, 0]
        given[m] = Encoding(x, jnp.ones(x.shape[:2], bool), x[:, 0], jnp.ones(2, bool))
        bn = f"norm.bn_{i}"
        params[f"{m}_in"] = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
        params |= {f"{m}_scale_0": w[f"{bn}.weight"].reshape(1, 1, 4), f"{m}_bias_0": w[f"{bn}.bias"].reshape(1, 1, 4)}
        stats[f"{m}_norm_0"] = {"batch": {"mean": w[f"{bn}.running_mean"], "var": w[f"{bn}.running_var"]}}
    got = fused(ChannelExchange(width=4, depth=1), {"params": params, "batch_stats": stats}, given)
    wanted = np.concatenate([GOLDEN["cen/out_x"][:, 0], GOLDEN["cen/out_y"][:, 0]], axis=1)
    np.testing.assert_allclose(got.tokens, wanted, atol=1e-5)
    np.testing.assert_allclose(got.pooled, (wanted[:, :3].mean(axis=1) + wanted[:, 3:].mean(axis=1)) / 2, atol=1e-5)
    np.testing.assert_allclose(got.aux["channel_sparsity"], 0.01 + 1.0 + 0.015 + 0.01, atol=1e-6)  # all of theirs, in their parts


def test_a_modality_never_loses_more_than_its_part_and_nothing_to_who_is_absent():
    """With every scale small, half of the hidden channels, here all outputs, are the other's; the rows' own otherwise."""
    given = encodings(audio=(3, 8), text=(3, 8))
    given = {m: e._replace(valid=jnp.ones_like(e.valid), time=None) for m, e in given.items()}
    given["audio"] = given["audio"]._replace(present=jnp.arange(3) != 0)
    options = dict(width=8, depth=1)
    variables = checks.drawn(ChannelExchange(**options), given, train=False)
    variables["params"]["out_0"] = {"kernel": jnp.eye(8), "bias": jnp.zeros(8)}
    kept, moved = (fused(ChannelExchange(**options, threshold=t), variables, given).tokens for t in (0.0, 9.0))
    added = {}
    for name, tokens in (("kept", kept), ("moved", moved)):
        for m, part in (("audio", slice(0, 3)), ("text", slice(3, 6))):
            x = np.where(given[m].present[:, None, None], given[m].tokens, 0)
            inner = x @ np.asarray(variables["params"][f"{m}_in"]["kernel"]) + np.asarray(variables["params"][f"{m}_in"]["bias"])
            added[name, m] = np.asarray(tokens[:, part] - inner)
    own, other = slice(0, 4), slice(4, 8)
    np.testing.assert_allclose(added["moved", "audio"][1:, :, own], added["kept", "text"][1:, :, own], atol=1e-5)
    np.testing.assert_allclose(added["moved", "audio"][1:, :, other], added["kept", "audio"][1:, :, other], atol=1e-5)
    np.testing.assert_allclose(added["moved", "text"][1:, :, other], added["kept", "audio"][1:, :, other], atol=1e-5)
    np.testing.assert_allclose(added["moved", "text"][0], added["kept", "text"][0], atol=1e-5)


def test_a_negative_threshold():
    with pytest.raises(ConfigError, match="threshold=-1 should be at least 0"):
        ChannelExchange(threshold=-1).init({}, encodings(text=(3, 4)), train=False)
