"""Mean, sum and maximum over the modalities that are there."""

import numpy as np
import pytest
from products import drawn, encodings, identity

from made import fused
from mmjax.config import ConfigError
from mmjax.fusion.pooling import KINDS, Pooling
from mmjax.testing import checks, fusion


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_numpys_over_what_is_there(kind):
    x = {m: drawn(4, 5, seed=i) - 2 for i, m in enumerate("abc")}  # mostly negative: a 0 for what is absent would be the maximum
    absent = [("a", 1), ("b", 1), ("c", 2)]
    got = fused(Pooling(5, kind), {"params": {f"{m}_in": identity(5) for m in x}}, encodings(absent, **x))
    seen = [[x[m][row] for m in x if (m, row) not in absent] for row in range(4)]
    np.testing.assert_allclose(got.pooled, [getattr(np, kind)(vectors, axis=0) for vectors in seen], rtol=1e-5)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "mean"])
def test_the_other_kinds_pass_the_checks_on_absence(kind):
    _, batch = Pooling.tiny()
    subject = fusion.FusionSubject(Pooling(8, kind), batch)
    for check in (checks.check_absent_content, checks.check_all_absent, fusion.check_every_subset, checks.check_gradients):
        check(subject)


def test_an_unknown_kind():
    with pytest.raises(ConfigError, match=r"fusion.kind='maximum' is unknown. Known: max, mean, sum|Did you mean 'max'"):
        Pooling(kind="maximum").init({}, encodings(a=drawn(2, 3)), train=False)
