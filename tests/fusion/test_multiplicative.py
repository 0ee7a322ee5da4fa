"""Multiplicative interactions against published code; each form is a special case of the larger one."""

import numpy as np
import pytest
from products import dense, drawn, encodings, golden, identity, inputs

from made import fused
from mmjax.config import ConfigError
from mmjax.fusion.multiplicative import KINDS, Multiplicative
from mmjax.testing import checks, fusion


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_published_form(kind):
    """There the context comes first; here it is the second by name. A matrix to 7 features reads 5 of 7, the others being 0."""
    case, x = golden(f"multiplicative_{kind}"), inputs(1, 0)
    width = 7 if kind == "matrix" else 5
    if kind == "matrix":
        case["W"] = np.pad(case["W"], ((0, 0), (0, 2), (0, 0)))
        case["V"] = np.pad(case["V"], ((0, 2), (0, 0))).ravel()
    params = {
        "a_in": identity(width, 5),
        "b_weight": dense(case["W"].reshape(4, -1), case["V"]),
        "b_bias": dense(case["U"].reshape(4, -1), case["b"]),
    }
    got = fused(Multiplicative(width, kind), {"params": params}, x)
    np.testing.assert_allclose(got.pooled, case["y"], atol=2e-6)


def test_a_scalar_is_a_special_vector_and_a_vector_a_special_matrix():
    x = encodings([("a", 0), ("b", 1), ("c", 2)], a=drawn(4, 3), b=drawn(4, 5, seed=1), c=drawn(4, 2, seed=2))
    params = dict(checks.drawn(Multiplicative(6, "scalar"), x, train=False)["params"])
    scalar = fused(Multiplicative(6, "scalar"), {"params": params}, x)
    for m in "bc":
        params[f"{m}_bias"] = dense(np.tile(params[f"{m}_bias"]["kernel"], 6), np.tile(params[f"{m}_bias"]["bias"], 6))
        params[f"{m}_weight"] = dense(np.tile(params[f"{m}_weight"]["kernel"], 6), np.tile(params[f"{m}_weight"]["bias"], 6))
    vector = fused(Multiplicative(6, "vector"), {"params": params}, x)
    np.testing.assert_allclose(vector.pooled, scalar.pooled, atol=1e-6)

    on_diagonal = np.eye(36)[:: 6 + 1]  # [6, 36]: where an entry of a vector is in a matrix
    for m in "bc":
        params[f"{m}_weight"] = dense(params[f"{m}_weight"]["kernel"] @ on_diagonal, params[f"{m}_weight"]["bias"] @ on_diagonal)
    matrix = fused(Multiplicative(6, "matrix"), {"params": params}, x)
    np.testing.assert_allclose(matrix.pooled, scalar.pooled, atol=1e-6)


@pytest.mark.parametrize("kind", ["vector", "scalar"])
def test_the_other_kinds_pass_the_checks_on_absence(kind):
    _, batch = Multiplicative.tiny()
    subject = fusion.FusionSubject(Multiplicative(8, kind), batch)
    for check in (checks.check_absent_content, checks.check_all_absent, fusion.check_every_subset, checks.check_gradients):
        check(subject)


def test_an_unknown_kind():
    with pytest.raises(ConfigError, match="fusion.kind='vectors' is unknown. Did you mean 'vector'?"):
        Multiplicative(kind="vectors").init({}, encodings(a=drawn(2, 3)), train=False)
