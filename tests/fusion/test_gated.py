"""GMU against its published code, and gates that add up to 1."""

import jax.numpy as jnp
import numpy as np
import pytest
from products import dense, drawn, encodings, golden, inputs

import checks
from made import fused
from mmjax.fusion.gated import Gated


def test_two_modalities_are_the_published_bimodal_unit():
    """Its gate looks at the hidden layers before their tanh; z is a softmax's over a score and 0."""
    case = golden("gated")
    x, width = inputs(0, 1), 7
    before = np.zeros((9, 2 * width), np.float32)
    before[:4, :width], before[4:, width:] = case["hidden_0"], case["hidden_1"]
    params = {
        "a_hidden": dense(case["hidden_0"]),
        "b_hidden": dense(case["hidden_1"]),
        "a_gate": dense(before @ case["gate"]),
        "b_gate": dense(np.zeros((9, width))),
    }
    np.testing.assert_allclose(fused(Gated(width), {"params": params}, x).pooled, case["y"], atol=2e-6)


@pytest.mark.parametrize("absent", [[], ["a"], ["b", "c"]])
def test_gates_of_what_is_there_add_up_to_one(absent):
    """Hidden vectors that are all the same pass as they are, whatever the gates."""
    x = encodings([(m, row) for m in absent for row in range(3)], **{m: drawn(3, 4, seed=i) for i, m in enumerate("abc")})
    params = dict(checks.drawn(Gated(7), x, train=False)["params"])
    params |= {f"{m}_hidden": dense(np.zeros((4, 7)), np.linspace(-2, 2, 7)) for m in "abc"}
    got = fused(Gated(7), {"params": params}, x).pooled
    np.testing.assert_allclose(got, jnp.broadcast_to(jnp.tanh(jnp.linspace(-2, 2, 7)), (3, 7)), atol=1e-6)
