"""Aligned fusion: what only depends on which tokens are at the same time; further ways of aligning pass the checks."""

import jax.numpy as jnp
import numpy as np
import pytest

import checks
from made import encodings, fused
from mmjax.fusion.temporal_alignment import TemporalAlignment
from mmjax.testing import fusion

FIELDS = {"width": 8, "depth": 1, "heads": 2}


def test_tokens_at_the_same_time_meet():
    """Streams of their own clock rate, in seconds from anywhere: only the order and spacing on the common scale count."""
    given = encodings(audio=(6, 3), text=(3, 4))
    module = TemporalAlignment(**FIELDS, align="linear", steps=4)
    variables = checks.drawn(module, given, train=False)
    wanted = fused(module, variables, given)
    later = {m: e._replace(time=100 + 3 * e.time) for m, e in given.items()}
    got = fused(module, variables, later)
    np.testing.assert_allclose(got.tokens, wanted.tokens, atol=1e-4)
    np.testing.assert_allclose(got.time, 100 + 3 * wanted.time, atol=1e-4)
    apart = {**given, "text": given["text"]._replace(time=given["text"].time + 9)}
    assert np.abs(fused(module, variables, apart).pooled - wanted.pooled).max() > 1e-2


def test_at_the_tokens_of_the_main_modality_the_order_within_the_others_is_in_the_times():
    """Tokens that change places together with their times are the same stream."""
    given = encodings(audio=(6, 3), text=(3, 4))
    module = TemporalAlignment(**FIELDS, align="mean", main="text")
    variables = checks.drawn(module, given, train=False)
    wanted = fused(module, variables, given)
    e, order = given["audio"], np.array([3, 1, 5, 0, 2, 4])
    turned = e._replace(tokens=e.tokens[:, order], valid=e.valid[:, order], time=e.time[:, order])
    np.testing.assert_allclose(fused(module, variables, {**given, "audio": turned}).pooled, wanted.pooled, atol=1e-5)
    np.testing.assert_array_equal(wanted.valid, given["text"].valid)
    assert np.abs(fused(module, variables, {**given, "audio": turned._replace(time=e.time)}).pooled - wanted.pooled).max() > 1e-3


@pytest.mark.parametrize("fields", [{"align": "mean", "main": "text"}, {"align": "attention", "align_heads": 2}])
def test_other_ways_pass_the_checks_on_absence(fields):
    module = TemporalAlignment(**FIELDS, steps=3, **fields)
    subject = fusion.FusionSubject(module, TemporalAlignment.tiny()[1])
    for check in (checks.check_absent_content, checks.check_all_absent, fusion.check_every_subset, checks.check_gradients):
        check(subject)


def test_padding_is_no_step():
    given = encodings(audio=(6, 3), text=(3, 4))
    module = TemporalAlignment(**FIELDS, align="mean", main="text")
    variables = checks.drawn(module, given, train=False)

    def padded(e):
        wide = [(0, 0), (0, 2), (0, 0)]
        time = jnp.pad(e.time, wide[:2], constant_values=jnp.nan)
        return e._replace(tokens=jnp.pad(e.tokens, wide, constant_values=jnp.nan), valid=jnp.pad(e.valid, wide[:2]), time=time)

    got = fused(module, variables, {m: padded(e) for m, e in given.items()})
    np.testing.assert_allclose(got.pooled, fused(module, variables, given).pooled, atol=1e-5)
