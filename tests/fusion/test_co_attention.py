"""Co-attention is eq. 3-5 of its paper, written as loops. Not independent: the loops are ours."""

import numpy as np

import checks
from made import encodings, fused
from mmjax.fusion.co_attention import CoAttention


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_is_the_papers_equations_row_by_row_on_the_valid_tokens():
    given = encodings(audio=(4, 3), image=(5, 6), text=(3, 4))
    given["audio"] = given["audio"]._replace(present=given["audio"].present.at[1].set(False))
    module = CoAttention(width=7, hidden=5)
    variables = checks.drawn(module, given, train=False)
    w = {name: np.asarray(leaf["kernel"]) for name, leaf in variables["params"].items()}
    got = fused(module, variables, given).pooled

    for row in range(3):
        tokens = {m: np.asarray(e.tokens[row])[np.asarray(e.valid[row])] for m, e in given.items() if e.present[row]}
        wanted = 0
        for m, x in tokens.items():
            hidden = x @ w[f"{m}_hidden"]
            for n, y in tokens.items():
                if n != m:
                    affinity = x @ w[f"{m}_{n}_affinity"].T @ y.T if m < n else (y @ w[f"{n}_{m}_affinity"].T @ x.T).T
                    hidden = hidden + np.tanh(affinity) @ (y @ w[f"{n}_hidden"])
            attention = softmax(np.tanh(hidden) @ w[f"{m}_score"][:, 0])
            wanted = wanted + attention @ x @ w[f"{m}_out"]
        np.testing.assert_allclose(got[row], np.tanh(wanted), atol=1e-5)
