"""What the list of fusions says of one: its parameters and operations are those of its equation."""

import pytest

from mmjax import config
from mmjax.fusion.concat import Concat
from mmjax.fusion.decision import Decision
from mmjax.fusion.low_rank import LowRank
from mmjax.fusion.tucker import Tucker
from mmjax.study import fusions


def test_the_cost_of_concatenation_is_that_of_its_layer():
    parameters, flops = fusions.cost(Concat(width=256))
    assert parameters == 3 * fusions.WIDTH * 256 + 256
    assert abs(flops / (2 * 3 * fusions.WIDTH * 256) - 1) < 0.02
    assert fusions.cost(Decision())[0] == 0


def test_a_fusion_is_described_by_its_first_line():
    assert fusions.described(Decision).startswith("Decision-level fusion: each modality has decided for itself")


def test_what_takes_no_three_modalities_is_measured_with_two():
    """A core of 235^3, its bias, and two projections."""
    parameters, flops = fusions._costs(Tucker(**Tucker.variants["tucker"]), 1.0)
    assert parameters == f"{235**3 + 235 + 2 * (fusions.WIDTH + 1) * 235:,} (two)" and flops.endswith(" (two)")


@pytest.mark.parametrize("name", config.names("fusion"))
def test_every_file_says_what_a_gap_does_and_what_it_asks_of_time(name):
    cls = config.resolve("fusion", name)
    for what in ("Gaps", "Time"):
        assert 0 < len(fusions.said(cls, what)) < 130, f"mmjax/fusion/{name}.py: a sentence '{what}: ....' in its docstring"


def test_a_sentence_may_go_over_the_end_of_a_line():
    assert fusions.said(LowRank, "Gaps") == "a learned bias stands in" and fusions.said(LowRank, "Gap") == ""


def test_linear_time_grows_with_the_length_and_attention_faster():
    linear, attention = config.resolve("fusion", "linear_time"), config.resolve("fusion", "early_transformer")
    for fusion, least, most in ((linear(), 3.5, 4.6), (attention(), 6.0, 16.0)):
        assert least < fusions._of_length(fusion, 4_096) / fusions._of_length(fusion, 1_024) < most
