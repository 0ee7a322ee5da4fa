"""MMTM against its authors' code; cross-stitch against its equation, not independent; both can leave the streams alone."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.stream_exchange import StreamExchange
from mmjax.testing import fusion
from torch_weights import dense, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_attention.npz")
IDENTITY = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}


def standardised(x):
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)


def only_units(params):
    """The parameters, with inputs, blocks and last norm that change nothing but the tokens' mean and length."""
    off = jax.tree_util.tree_map_with_path(lambda path, x: x * 0 if "out" in [key.key for key in path[-2:]] else x, params)
    return off | {name: IDENTITY for name in params if name.endswith("_in")} | {"norm": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}


def test_mmtm_is_the_authors():
    w = weights(GOLDEN, "mmtm")
    given = {}
    for m, theirs in (("audio", "x"), ("text", "y")):
        x = jnp.asarray(GOLDEN[f"mmtm/{theirs}"]).swapaxes(1, 2)
        given[m] = Encoding(x, jnp.ones(x.shape[:2], bool), x[:, 0], jnp.ones(2, bool))
    module = StreamExchange("mmtm", width=4, depth=1, heads=1)
    params = only_units(checks.drawn(module, given, train=False)["params"])
    squeeze = w["fc_squeeze.weight"].T
    params |= {"audio_squeeze_00": {"kernel": squeeze[:4], "bias": w["fc_squeeze.bias"]}}  # one bias for all
    params |= {"text_squeeze_00": {"kernel": squeeze[4:], "bias": jnp.zeros(2)}}
    params |= {"audio_excite_00": dense(w, "fc_visual"), "text_excite_00": dense(w, "fc_skeleton")}
    got = fused(module, {"params": params}, given)
    wanted = np.concatenate([GOLDEN[f"mmtm/out_{name}"].swapaxes(1, 2) for name in "xy"], axis=1)
    np.testing.assert_allclose(got.tokens, standardised(2 * wanted), atol=1e-4)  # the paper's factor, theirs has none


def test_cross_stitch_is_its_equation_and_an_absent_stream_has_no_part():
    given = encodings(audio=(3, 4), text=(3, 4))
    given = {m: e._replace(valid=jnp.ones_like(e.valid), time=None) for m, e in given.items()}
    given["audio"] = given["audio"]._replace(present=jnp.arange(3) != 0)
    module = StreamExchange(width=4, depth=1, heads=1)
    params = only_units(checks.drawn(module, given, train=False)["params"])
    got = fused(module, {"params": params}, given)
    x = {m: np.array(given[m].tokens) for m in given}
    x["audio"][0] = 0
    for m, n, place in (("audio", "text", slice(0, 3)), ("text", "audio", slice(3, 6))):
        wanted = standardised(np.asarray(params[f"{m}_to_{m}_00"]) * x[m] + np.asarray(params[f"{n}_to_{m}_00"]) * x[n])
        np.testing.assert_allclose(got.tokens[1:, place], wanted[1:], atol=1e-4)
        if m == "text":
            np.testing.assert_allclose(got.tokens[0, place], wanted[0], atol=1e-4)


@pytest.mark.parametrize("unit", ["cross_stitch", "mmtm"])
def test_neutral_units_leave_the_streams_alone_and_others_do_not(unit):
    given = encodings(audio=(5, 6), text=(3, 4))
    module = StreamExchange(unit, width=8, depth=1, heads=2)
    params = checks.drawn(module, given, train=False)["params"]

    def neutral(path, leaf):
        name = path[0].key
        if "_to_" in name:
            m, n = name[:-3].split("_to_")
            return jnp.full(leaf.shape, float(m == n))
        return leaf * 0 if "excite" in name else leaf

    apart = []
    for p in (jax.tree_util.tree_map_with_path(neutral, params), params):
        alone, both = (fused(module, {"params": p}, {m: given[m] for m in names}).tokens for names in (("text",), ("audio", "text")))
        apart.append(np.abs(both[:, 5:] - alone).max())
    assert apart[0] < 1e-5 and apart[1] > 1e-2


def test_mmtm_passes_the_checks_on_absence():
    subject = fusion.FusionSubject(StreamExchange("mmtm", width=8, depth=1, heads=2), StreamExchange.tiny()[1])
    for check in (checks.check_absent_content, fusion.check_every_subset, checks.check_gradients):
        check(subject)


def test_an_unknown_unit():
    with pytest.raises(ConfigError, match="unit='mtmm' is unknown. Did you mean 'mmtm'"):
        StreamExchange("mtmm").init(jax.random.key(0), encodings(text=(3, 4)), train=False)
