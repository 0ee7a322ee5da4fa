"""Graph attention against a published implementation over lists of edges; permutations, neighbourhoods and padding."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.config import ConfigError
from mmjax.contract import Encoding
from mmjax.fusion.graph_attention import GraphAttention
from mmjax.testing import fusion
from torch_weights import weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fusion_time.npz")


def layer(case):
    w = weights(GOLDEN, f"gat/{case}")
    scores = {name: w[f"scoring_fn_{name}"][0] for name in ("target", "source")}
    return {"in": {"kernel": w["linear_proj.weight"].T}, "bias": w["bias"][None, None], **scores}


def test_is_a_published_gat_over_lists_of_edges():
    """A layer between modalities, whose heads are concatenated, and one within them, whose heads are averaged."""
    x, group = jnp.asarray(GOLDEN["gat/x"]), GOLDEN["gat/group"]
    given, params = {}, {"layer_00": layer("first"), "layer_01": layer("last")}
    for i, m in enumerate("abc"):
        tokens = jnp.pad(x[None, group == i], ((0, 0), (0, 1), (0, 0)), constant_values=jnp.nan)
        valid = jnp.arange(tokens.shape[1])[None] < tokens.shape[1] - 1
        given[m] = Encoding(tokens, valid, tokens[:, 0], jnp.ones(1, bool))
        params[f"{m}_in"] = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    got = fused(GraphAttention(4, heads=2, nodes="tokens", edges=("between", "within")), {"params": params}, given)
    np.testing.assert_allclose(got.tokens[got.valid], GOLDEN["gat/y"], atol=1e-5)
    np.testing.assert_allclose(got.pooled[0], GOLDEN["gat/y"].mean(axis=0), atol=1e-5)


def test_permuted_nodes_are_permuted_all_through():
    given = encodings(audio=(4, 3), text=(3, 2))
    module = GraphAttention(4, heads=2, nodes="tokens", edges=("between", "all"))
    variables = checks.drawn(module, given, train=False)
    wanted = fused(module, variables, given)
    e, order = given["audio"], np.array([2, 0, 3, 1])
    turned = {**given, "audio": e._replace(tokens=e.tokens[:, order], valid=e.valid[:, order])}
    got = fused(module, variables, turned)
    np.testing.assert_allclose(got.tokens, wanted.tokens[:, np.append(order, [4, 5, 6])], atol=1e-5)
    np.testing.assert_allclose(got.pooled, wanted.pooled, atol=1e-5)


@pytest.mark.parametrize(("edges", "own", "others"), [("between", False, True), ("within", True, False)])
def test_a_node_hears_of_its_neighbours_alone(edges, own, others):
    """After one layer: whether the first token of a modality has heard of its second, and of another modality's."""
    given = {m: e._replace(valid=jnp.ones((3, 3), bool)) for m, e in encodings(audio=(3, 3), text=(3, 2)).items()}
    module = GraphAttention(4, depth=1, heads=2, nodes="tokens", edges=edges)
    variables = checks.drawn(module, given, train=False)
    wanted = fused(module, variables, given).tokens[:, 0]
    for m, heard in (("audio", own), ("text", others)):
        changed = {**given, m: given[m]._replace(tokens=given[m].tokens.at[:, 1].add(1.0))}
        assert (np.abs(fused(module, variables, changed).tokens[:, 0] - wanted).max() > 1e-4) == heard


def test_attention_over_tokens_passes_the_checks_on_absence():
    module = GraphAttention(width=4, heads=2, nodes="tokens", edges=("within", "between"))
    subject = fusion.FusionSubject(module, GraphAttention.tiny()[1])
    for check in (checks.check_absent_content, checks.check_all_absent, fusion.check_every_subset, checks.check_gradients):
        check(subject)


def test_wrong_fields():
    for options, message in (
        ({"nodes": "token"}, "fusion.nodes='token' is unknown. Did you mean 'tokens'?"),
        ({"edges": "betwen"}, "fusion.edges='betwen' is unknown. Did you mean 'between'?"),
        ({"edges": ["all"]}, r"fusion.edges=\['all'\] has 1 entries for depth=2 layers"),
        ({"width": 6}, "A width of 6 does not split into 4 heads"),
    ):
        with pytest.raises(ConfigError, match=message):
            jax.eval_shape(lambda options=options: GraphAttention(**options).init(jax.random.key(0), encodings(text=(3, 4)), train=False))
