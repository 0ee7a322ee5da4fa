"""What the list of fusions says of one: its parameters and operations are those of its equation."""

from mmjax.fusion.concat import Concat
from mmjax.fusion.decision import Decision
from mmjax.study import fusions


def test_the_cost_of_concatenation_is_that_of_its_layer():
    parameters, flops = fusions.cost(Concat(width=256))
    assert parameters == 3 * fusions.WIDTH * 256 + 256
    assert abs(flops / (2 * 3 * fusions.WIDTH * 256) - 1) < 0.02
    assert fusions.cost(Decision())[0] == 0


def test_a_fusion_is_described_by_its_first_line():
    assert fusions.described(Decision).startswith("Decision-level fusion: each modality has decided for itself")
