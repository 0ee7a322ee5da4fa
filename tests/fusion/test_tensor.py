"""TFN against two published codes and an explicit outer product; too large a tensor is refused."""

import jax
import numpy as np
import pytest
from products import dense, drawn, encodings, golden, identity, inputs

from made import fused
from mmjax.config import ConfigError
from mmjax.fusion.tensor import Tensor


def test_the_published_tensor_and_the_layer_that_reads_it():
    case, x = golden("tensor"), inputs(0, 1, 2)
    # Of 6 features in the tensor, a has 4 and b 5: the others are 0, and no weight reads them.
    kernel = np.zeros((7, 7, 7, 7), np.float32)
    kernel[:5, :6, :7] = case["weight"].T.reshape(5, 6, 7, 7)
    params = {f"{m}_in": identity(6, n) for m, n in zip("abc", (4, 5, 6), strict=True)}
    got = fused(Tensor(7, inner=6), {"params": {**params, "out": dense(kernel.reshape(-1, 7), case["bias"])}}, x)
    np.testing.assert_allclose(got.pooled, case["y"], atol=2e-5)

    entries = np.zeros((7, 7, 7), bool)
    entries[:5, :6, :7] = True
    params["out"] = dense(np.eye(343)[:, entries.ravel()])
    got = fused(Tensor(210, inner=6), {"params": params}, x)
    np.testing.assert_allclose(got.pooled, case["product"], atol=2e-6)


def test_it_is_the_outer_product_of_what_is_there():
    a, b, c = (drawn(3, 2, seed=i) for i in range(3))
    x = encodings([("b", 1), ("a", 2), ("b", 2), ("c", 2)], a=a, b=b, c=c)
    params = {f"{m}_in": dense(np.eye(2), np.ones(2)) for m in "abc"} | {"out": dense(np.eye(27))}
    got = fused(Tensor(27, inner=2), {"params": params}, x).pooled.reshape(3, 3, 3, 3)
    for row, (i, j, k) in enumerate([(a[0] + 1, b[0] + 1, c[0] + 1), (a[1] + 1, [0, 0], c[1] + 1)]):
        np.testing.assert_allclose(got[row], np.einsum("i,j,k->ijk", [1, *i], [1, *j], [1, *k]), rtol=1e-5)
    assert not got[2].any()


def test_a_tensor_that_is_too_large():
    five = encodings(**{m: drawn(2, 3) for m in "abcde"})
    with pytest.raises(ConfigError, match=r"5 modalities with inner=16 has 1,419,857 entries, more than largest=100,000.*low_rank"):
        Tensor().init(jax.random.key(0), five, train=False)
