"""The model of time: what is computed and sent by hand takes what it should, and what overlaps is not paid twice."""

import numpy as np
import pytest

from mmjax.config import UserError
from mmjax.study.collectives import Compute, Done, Loop, Start
from mmjax.study.scaling import Program, Speeds, Torus, is_ring, play, seconds_of, torus_of
from mmjax.study.scaling_document import document
from mmjax.study.scaling_plan import CASES, Loss, Plan
from mmjax.train.chips import CHIPS

CHIP = CHIPS["v5p"]._replace(flops=1e12, memory_bandwidth=1e11, link_bandwidth=1e10)
EXACT = Speeds(arithmetic=1.0, memory=1.0, links=1.0, hop=0.0, least=0.0)
CUBE = Torus((4, 4, 4), {"data": (4, 4, 1), "fsdp": (1, 1, 4), "sequence": (1, 1, 1), "tensor": (1, 1, 1)})
SMALL = Torus((2, 2, 2), {"data": (2, 2, 2), "fsdp": (1, 1, 1)})


def test_an_instruction_takes_the_longer_of_computing_and_fetching():
    assert seconds_of(Compute(2e12, 1e11), CHIP, CUBE, EXACT) == 2.0
    assert seconds_of(Compute(1e12, 3e11), CHIP, CUBE, EXACT) == 3.0
    assert seconds_of(Compute(1e12, 0), CHIP, CUBE, EXACT._replace(arithmetic=0.5)) == 2.0
    assert seconds_of(Compute(0, 8), CHIP, CUBE, EXACT._replace(least=1e-6)) == 1e-6


def test_a_collective_takes_all_links_along_its_axes():
    """Rings have two links in every dimension; sides of two chips have one."""
    gather = Start("a", "all-gather", ("fsdp",), 4, int(4e10))
    assert seconds_of(gather, CHIP, CUBE, EXACT) == pytest.approx(3e10 / 2e10)
    assert seconds_of(gather._replace(axes=("data",), group=16), CHIP, CUBE, EXACT) == pytest.approx(4e10 * 15 / 16 / 4e10)
    assert seconds_of(gather._replace(axes=("data", "fsdp"), group=64), CHIP, CUBE, EXACT) == pytest.approx(4e10 * 63 / 64 / 6e10)
    reduce = Start("b", "all-reduce", ("data",), 8, int(8e10))
    assert seconds_of(reduce, CHIP, SMALL, EXACT) == pytest.approx(2 * 7e10 / 3e10)
    assert seconds_of(Start("c", "collective-permute", ("data",), 8, int(1e10)), CHIP, SMALL, EXACT) == 1.0
    assert seconds_of(reduce, CHIP, SMALL, EXACT._replace(hop=1.0)) == pytest.approx(2 * 7e10 / 3e10 + 2 * 3)  # 3 hops, there and back
    assert seconds_of(Start("d", "all-reduce", (), 1, 8), CHIP, SMALL, EXACT) == 0.0


def test_what_is_sent_while_something_is_computed_is_waited_for_only_as_far_as_it_is_longer():
    """One second of sending, in which 0.4 are computed."""
    send, done, compute = Start("a", "collective-permute", ("data",), 8, int(1e10)), Done("a"), Compute(4e11, 0)
    key = ("collective-permute", ("data",))
    beside = play([send, compute, done], CHIP, SMALL, EXACT)
    assert (beside.seconds, beside.computing, *beside.moved[key]) == pytest.approx((1.0, 0.4, 1e10, 1.0, 0.6))
    after = play([send, done, compute], CHIP, SMALL, EXACT)
    assert (after.seconds, after.computing, *after.moved[key]) == pytest.approx((1.4, 0.4, 1e10, 1.0, 1.0))
    loop = play([compute, Loop(5, [send, compute, done])], CHIP, SMALL, EXACT)
    assert (loop.seconds, loop.computing, *loop.moved[key]) == pytest.approx((5.4, 2.4, 5e10, 5.0, 3.0))


def test_collectives_on_one_axis_wait_for_each_other_and_on_two_do_not():
    data, fsdp = (Start(axis, "collective-permute", (axis,), 4, int(1e10)) for axis in ("data", "fsdp"))
    both = [data, fsdp, Done("data"), Done("fsdp")]
    assert play(both, CHIP, CUBE, EXACT).seconds == pytest.approx(1.0)
    again = data._replace(name="again")
    assert play([data, again, Done("data"), Done("again")], CHIP, CUBE, EXACT).seconds == pytest.approx(2.0)
    assert play([data], CHIP, CUBE, EXACT).seconds == pytest.approx(1.0)  # the step ends when everything has arrived


def test_a_program_says_how_it_was_cut_and_how_fast_it_is():
    events = [Compute(1.0, 2.0, 3.0), Start("a", "all-gather", ("data", "fsdp"), 8, 64), Loop(3, [Compute(4.0, 5.0)]), Done("a")]
    found = {"mesh": {"data": 8, "fsdp": 1}, "batch": 512, "torus": list(SMALL), "needs": 10, "arguments": 4}
    program = Program(found, CHIP, events)
    assert (program.chips, program.rows, program.fits) == (8, 64, True)
    assert program.total() == Compute(13.0, 17.0, 3.0)
    assert program.step(EXACT) == play(events, CHIP, SMALL, EXACT)
    assert not Program({k: v for k, v in found.items() if k != "arguments"}, CHIP, []).fits


def test_how_a_mesh_lies_on_a_slice():
    """Chips in the order of their coordinates: the last dimension of 4 x 4 x 4 is an axis, the others are another."""
    coordinates = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(16, 4, 1, 1, 3)
    assert torus_of(coordinates, tuple(CUBE.sides)) == CUBE
    assert CUBE.along(("data", "fsdp")) == (4, 4, 4) and CUBE.along(("fsdp",)) == (1, 1, 4)
    halves = torus_of(coordinates.reshape(32, 2, 3), ("data", "fsdp"))
    assert halves.sides == {"data": (4, 4, 2), "fsdp": (1, 1, 2)}
    assert not is_ring(CHIP, halves, 2, 2) and is_ring(CHIP, halves, 4, 0)


ABOUT = {"git_commit": "abc", "git_changes": False, "cpu_cores": 2, "cpu": "CPU", "devices": "1 x cpu", "versions": {"jax": "1.2"}}
MADE = [{"seconds": 60.0, "environment": ABOUT}] * len(CASES)


def program(case):
    """What a program could be: arithmetic goes with rows and, in the loss, with the batch; 100 MB are summed, and 1 kB for every row."""
    alone, batch = isinstance(case, Loss), case.rows * case.chips
    side = round(case.chips ** (1 / 3))
    mesh = {"data": case.chips, "fsdp": 1, "sequence": 1, "tensor": 1} | ({} if alone else case.mesh)
    sides = {axis: (side,) * 3 if axis == "data" else (1, 1, 1) for axis in mesh}
    turns = case.chips if case.logits == "ring" else 1
    sent = Start("l", "all-reduce", ("data",), case.chips, 1_000 * batch // turns)
    loss = Loop(turns, [Compute(1e6 * batch / turns, 1.0, 2_122.0), sent, Done("l")])
    towers = [] if alone else [Compute(1e9 * case.rows, 1e3, 1e6), sent._replace(name="g", size=10**8), Done("g")]
    if not alone and case.grown != "data":
        towers.append(Loop(2, [Compute(1e11, 1e3)]))
    logits = 0 if case.logits == "ring" else 4 * case.rows * batch
    by_hand = {"parameters": 1e8, "forward": 1e8, "again": 0.0}
    found = {"mesh": mesh, "batch": batch, "by_hand": by_hand, "torus": [(side,) * 3, sides], "arguments": 10**9, "xla_flops": 1.0}
    return Program(found | {"needs": 2 * 10**9 + logits}, CHIPS[case.chip], [*towers, loss])


def test_the_document_is_made_of_the_programs_numbers(tmp_path):
    found = {case: program(case) for case in CASES}
    document(found, MADE, tmp_path / "scaling.md")
    text = (tmp_path / "scaling.md").read_text()
    assert "- commit: abc\n" in text and f"{len(CASES)}, compiled in {len(CASES)} minutes" in text
    plan = Plan(found)
    model, loss = "CLIP L/14", "sigmoid"
    efficiency = [f"{plan.seconds(model, 8, loss) / plan.seconds(model, n, loss):.2f}" for n in (8, 64, 512, 4_096)]
    assert f"| {model} | {loss} | {' | '.join(efficiency)} |" in text and efficiency[0] == "1.00" > efficiency[-1]
    assert "{{" not in text and "nan" not in text
    for name in ("scaling_efficiency.svg", "scaling_loss.svg"):
        assert f"({name})" in text and (tmp_path / name).read_text().rstrip().endswith("</svg>")


def test_what_the_document_says_has_to_hold(tmp_path):
    found = {case: program(case._replace(logits="dense")) for case in CASES}
    with pytest.raises(UserError, match=r"does not hold any more: the ring is slower than dense logits"):
        document(found, MADE, tmp_path / "scaling.md")
    assert not list(tmp_path.iterdir())


def test_every_case_has_a_name_of_its_own_and_a_slice_that_there_is():
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert CHIPS[case.chip].slice(case.chips)
        assert isinstance(case, Loss) or np.prod(list(case.mesh.values())) == case.chips
