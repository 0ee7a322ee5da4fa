"""MFN and Graph-MFN against published code; the graph's efficacies; what an invalid step and an absent modality change."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax import config
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.mfn import Mfn
from mmjax.nn.fusion_graph import edges
from mmjax.testing import fusion
from torch_weights import dense, weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_time.npz")
NAMES = {"l": "audio", "a": "series", "v": "video"}  # in the order of theirs
NETWORKS = {"att1": "attention", "att2": "proposal", "gamma1": "retain", "gamma2": "update"}
FIELDS = {"width": 3, "memory": 5, "hidden": 4, "steps": 4}


def given():
    """The golden inputs: as many tokens as steps, so that aligning changes nothing."""
    found = {}
    for m, ours in NAMES.items():
        x = jnp.asarray(GOLDEN[f"mfn/x_{m}"])
        ones = jnp.ones(x.shape[:2], bool)
        found[ours] = Encoding(x, ones, x[:, 0], ones[:, 0])
    return found


def common(w):
    """The published LSTMs and small networks as ours."""
    params, step = {}, {}
    for m, ours in NAMES.items():
        bias = w[f"lstm_{m}.bias_ih"] + w[f"lstm_{m}.bias_hh"]
        params[f"{ours}_in"] = {"kernel": w[f"lstm_{m}.weight_ih"].T, "bias": bias}
        step[f"{ours}_recurrent"] = {"kernel": w[f"lstm_{m}.weight_hh"].T}
    for name, ours in NETWORKS.items():
        if f"{name}_fc1.weight" in w:
            step |= {f"{ours}_in": dense(w, f"{name}_fc1"), f"{ours}_out": dense(w, f"{name}_fc2")}
    return params, step


def test_mfn_is_the_published_network():
    params, step = common(weights(GOLDEN, "mfn"))
    got = fused(Mfn(**FIELDS), {"params": {**params, "step": step}}, given())
    np.testing.assert_allclose(got.pooled, GOLDEN["mfn/y"], atol=1e-5)


def test_graph_mfn_is_the_published_network_and_shows_its_efficacies():
    """Theirs has two linear layers in a row: our first is their product, and our second changes nothing."""
    w = weights(GOLDEN, "graph_mfn")
    networks = {name.removeprefix("graph_mfn/networks/"): jnp.asarray(GOLDEN[name]) for name in GOLDEN.files if "/networks/" in name}
    params, step = common(w)
    step |= {f"{ours}_vertex": dense(w, f"{m}_transform") for m, ours in NAMES.items()}
    graph = {"efficacy_in": dense(networks, "efficacy"), "efficacy_out": dense(networks, "efficacy_out")}
    for name in ("la", "lv", "av", "lav", "top"):
        ours = name if name == "top" else "+".join(NAMES[m] for m in name)
        graph |= {f"{ours}_in": dense(networks, name), f"{ours}_out": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}
    module = Mfn(**FIELDS, attention="graph", linear=True)
    variables = {"params": {**params, "step": {**step, "graph": graph}}}
    got, kept = checks.quick(lambda v, x: module.apply(v, x, train=False, mutable=["intermediates"]))(variables, given())
    np.testing.assert_allclose(got.pooled, GOLDEN["graph_mfn/y"], atol=1e-5)
    (efficacies,) = kept["intermediates"]["efficacies"]
    np.testing.assert_allclose(efficacies, GOLDEN["graph_mfn/efficacies"], atol=1e-5)
    assert len(edges(tuple(NAMES.values()))) == efficacies.shape[2]


def test_efficacies_are_shares_and_none_leads_from_what_is_absent():
    x = encodings(audio=(3, 2), image=(3, 4), text=(3, 3))
    x["image"] = x["image"]._replace(present=jnp.asarray([True, False, True]))
    module = Mfn(width=4, memory=5, hidden=6, attention="graph", steps=2)
    variables = checks.drawn(module, x, train=False)
    _, kept = checks.quick(lambda v, x: module.apply(v, x, train=False, mutable=["intermediates"]))(variables, x)
    (efficacies,) = kept["intermediates"]["efficacies"]
    with_image = np.array(["image" in part for part, _ in edges(("audio", "image", "text"))])
    assert (efficacies[1][:, with_image] == 0).all()
    rest = np.concatenate([efficacies[0].ravel(), efficacies[1][:, ~with_image].ravel()])
    assert ((rest > 0) & (rest < 1)).all()


def test_a_step_without_a_token_leaves_the_state_as_it_is():
    """At the steps of a main modality: padded ones between others change nothing, and come to nothing."""
    x = encodings(audio=(4, 2), text=(4, 3))
    module = Mfn(width=4, memory=5, hidden=6, align="mean", main="text")
    variables = checks.drawn(module, x, train=False)
    keep = np.array([0, 1, 3, 4])

    def spread(e):
        def place(x, fill):
            return jnp.full((x.shape[0], 5, *x.shape[2:]), fill, x.dtype).at[:, keep].set(x)

        return e._replace(tokens=place(e.tokens, jnp.nan), valid=place(e.valid, False), time=place(e.time, jnp.nan))

    wanted, got = fused(module, variables, x), fused(module, variables, {**x, "text": spread(x["text"])})
    np.testing.assert_allclose(got.pooled, wanted.pooled, atol=1e-5)
    np.testing.assert_allclose(got.tokens[:, keep], wanted.tokens, atol=1e-5)
    assert not got.tokens[:, 2].any()


def test_graph_mfn_passes_the_checks_on_absence():
    module = config.build("fusion", {"name": "mfn", "variant": "graph_mfn", "width": 4, "memory": 6, "hidden": 8, "steps": 3}, "fusion")
    subject = fusion.FusionSubject(module, Mfn.tiny()[1])
    for check in (checks.check_absent_content, checks.check_all_absent, fusion.check_every_subset, checks.check_gradients):
        check(subject)


def test_an_unknown_attention():
    with pytest.raises(ConfigError, match="fusion.attention='grap' is unknown. Did you mean 'graph'?"):
        Mfn(attention="grap").init(jax.random.key(0), encodings(text=(3, 4)), train=False)
