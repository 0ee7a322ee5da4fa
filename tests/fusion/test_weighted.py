"""Weighted sum: equal weights are the mean, and the weights are those of the modalities that are there."""

import jax
import numpy as np
from products import drawn, encodings, identity

import checks
from made import fused
from mmjax.fusion.pooling import Pooling
from mmjax.fusion.weighted import Weighted


def test_equal_weights_are_the_mean():
    x = encodings(absent=[("a", 0), ("b", 1), ("c", 1)], a=drawn(3, 4), b=drawn(3, 5, seed=1), c=drawn(3, 6, seed=2))
    params = checks.drawn(Weighted(7), x, train=False)["params"]
    mean = fused(Pooling(7), {"params": {m: p for m, p in params.items() if m != "logits"}}, x)
    for logit in (0.0, 3.0):
        got = fused(Weighted(7), {"params": {**params, "logits": jax.numpy.full(3, logit)}}, x)
        np.testing.assert_allclose(got.pooled, mean.pooled, rtol=1e-5)


def test_weights_are_a_softmax_over_what_is_there():
    a, b, c = (drawn(4, 2, seed=i) for i in range(3))
    x = encodings(absent=[("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3), ("c", 3)], a=a, b=b, c=c)
    params = {f"{m}_in": identity(2) for m in "abc"} | {"logits": jax.numpy.log(jax.numpy.array([1.0, 2.0, 5.0]))}
    got = fused(Weighted(2), {"params": params}, x)
    wanted = [(a[0] + 2 * b[0] + 5 * c[0]) / 8, (a[1] + 5 * c[1]) / 6, c[2], 0 * c[3]]
    np.testing.assert_allclose(got.pooled, wanted, rtol=1e-5)
    assert got.present.tolist() == [True, True, True, False]
