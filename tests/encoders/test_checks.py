"""The checks of `tests/checks.py` are checked themselves: each broken encoder fails the one that is there for it."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checks
from mmjax.contract import Encoding
from mmjax.ops.masks import masked_mean, zero_where_not


class Good(nn.Module):
    """A dense layer a position and a zero-initialised head on their mean; the rest overrides one of its steps."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, valid=None, present=None, *, train):
        present = jnp.ones(len(x), bool) if present is None else present
        valid = present[:, None] & (jnp.ones(x.shape[:2], bool) if valid is None else valid)
        x = self.cleaned(x, valid, present).astype(self.dtype)
        tokens = nn.tanh(nn.Dense(8, dtype=self.dtype, name="in")(x))
        pooled = nn.Dense(8, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(self.pooled(tokens, valid))
        return Encoding(tokens, valid, self.last(pooled, present), present)

    def cleaned(self, x, valid, present):
        return zero_where_not(valid, x)

    def pooled(self, tokens, valid):
        return masked_mean(tokens, valid)

    def last(self, pooled, present):
        return pooled

    @classmethod
    def tiny(cls):
        series = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
        return cls(), {"series": series, "series/valid": np.arange(5) < np.array([5, 3, 2, 4])[:, None]}


@cache
def good():
    return checks.of_encoder(Good)


class MultipliesByTheMask(Good):
    def cleaned(self, x, valid, present):
        return x * valid[..., None].astype(x.dtype)


class IgnoresValid(Good):
    def cleaned(self, x, valid, present):
        return zero_where_not(present, x)

    def pooled(self, tokens, valid):
        return tokens.mean(axis=1)


class CentredOnAllRows(Good):
    def last(self, pooled, present):
        pooled = zero_where_not(present, pooled)
        return pooled - pooled.mean(axis=0, keepdims=True)


class DividesByNothing(Good):
    def pooled(self, tokens, valid):
        return zero_where_not(valid, tokens).sum(axis=1) / valid.sum(axis=1, keepdims=True).astype(tokens.dtype)


class DeadParameter(Good):
    def last(self, pooled, present):
        return pooled + jax.lax.stop_gradient(self.param("shift", nn.initializers.ones, (1, 8)).astype(pooled.dtype))


class DeadHalf(Good):
    """What stands before is cut off by a factor that starts, and stays, at zero."""

    def last(self, pooled, present):
        return pooled + 0 * nn.Dense(8, dtype=self.dtype, name="unused")(pooled)


class IgnoresContent(Good):
    def last(self, pooled, present):
        return jnp.ones_like(pooled)


class BranchesOnPresence(Good):
    def last(self, pooled, present):
        return pooled if present.all() else zero_where_not(present, pooled)


class PicksRows(Good):
    def last(self, pooled, present):
        return pooled.at[jnp.flatnonzero(present)].add(pooled[present])


class Unsteady(Good):
    def last(self, pooled, present):
        return pooled + float(isinstance(pooled, jax.core.Tracer))


class NeedsMasks(Good):
    def __call__(self, x, valid=None, present=None, *, train):
        return super().__call__(x, valid[:, :], present, train=train)


class NoVmap(Good):
    def last(self, pooled, present):
        return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(pooled.shape, pooled.dtype), jax.lax.stop_gradient(pooled)) + pooled


class WrongShape(Good):
    def last(self, pooled, present):
        return pooled[:, :7]


class WrongType(Good):
    def last(self, pooled, present):
        return pooled.astype(jnp.bfloat16)


class NoHalf(Good):
    def last(self, pooled, present):
        return pooled.astype(jnp.float32)


class HalfParameters(Good):
    def last(self, pooled, present):
        return pooled + self.param("shift", nn.initializers.ones, (1, 8), self.dtype).astype(pooled.dtype)


class StatisticsOfAllRows(Good):
    """Batch normalisation that does not look at presence."""

    @nn.compact
    def __call__(self, x, valid=None, present=None, *, train):
        e = super().__call__(x, valid, present, train=train)
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)
        return e._replace(pooled=zero_where_not(e.present, norm(zero_where_not(e.present, e.pooled))))


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_a_good_encoder_passes(check):
    check(good())


@pytest.mark.parametrize(
    ("cls", "check", "message"),
    [
        (MultipliesByTheMask, checks.check_absent_content, "not finite"),
        (IgnoresValid, checks.check_absent_content, "where nothing is"),
        (CentredOnAllRows, checks.check_absent_rows, "absent"),
        (CentredOnAllRows, checks.check_content_matters, "another row"),
        (StatisticsOfAllRows, checks.check_absent_rows, "absent"),
        (StatisticsOfAllRows, checks.check_all_absent, "statistics"),
        (DividesByNothing, checks.check_all_absent, "not finite"),
        (DeadParameter, checks.check_gradients, "shift"),
        (DeadHalf, checks.check_gradients, "unused"),
        (IgnoresContent, checks.check_content_matters, "does not depend"),
        (Unsteady, checks.check_jit, "eager"),
        (WrongShape, checks.check_contract, "pooled"),
        (WrongType, checks.check_contract, "float32"),
        (NoHalf, checks.check_bfloat16, "not computed in bfloat16"),
        (HalfParameters, checks.check_bfloat16, "Parameters"),
    ],
)
def test_a_broken_encoder_fails(cls, check, message):
    with pytest.raises(AssertionError, match=message):
        check(checks.of_encoder(cls))


@pytest.mark.parametrize(
    ("cls", "check", "error"),
    [
        (BranchesOnPresence, checks.check_compilations, jax.errors.TracerBoolConversionError),
        (PicksRows, checks.check_compilations, jax.errors.ConcretizationTypeError),
        (NeedsMasks, checks.check_jit, TypeError),
        (NoVmap, checks.check_vmap, NotImplementedError),
    ],
)
def test_an_encoder_that_cannot_run_fails(cls, check, error):
    with pytest.raises(error):
        check(checks.of_encoder(cls))


def test_another_program_for_another_presence_is_noticed():
    subject = checks.of_encoder(Good)
    subject.evaluate(subject.variables, subject.batch)  # without /present: another program
    with pytest.raises(AssertionError, match="Compiled again"):
        checks.check_compilations(subject)


def test_tiny_without_ragged_rows_is_refused():
    class NothingRagged(Good):
        @classmethod
        def tiny(cls):
            return cls(), {"series": Good.tiny()[1]["series"]}

    with pytest.raises(AssertionError, match="series/valid"):
        checks.of_encoder(NothingRagged)
