"""What is read out of compiled programs is what was put into them: kinds, axes, bytes, trips and order, counted by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.study.collectives import Compute, Done, Loop, Start, computed, moved, schedule

SIZES = {"data": 2, "fsdp": 4}
BOTH = PartitionSpec(("data", "fsdp"))
HLO = Path(__file__).parents[1] / "golden" / "hlo"


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("data", "fsdp"), (AxisType.Auto,) * 2)


def read(fn, mesh, *shapes, **kwargs):
    """The schedule of a program on the eight devices, its arguments' rows split over both axes."""
    placed = [jax.ShapeDtypeStruct(s, d, sharding=NamedSharding(mesh, p)) for s, d, p in shapes]
    with jax.set_mesh(mesh):
        return schedule(jax.jit(fn, **kwargs).lower(*placed).compile().as_text(), SIZES)


def inside(fn, out=BOTH):
    return jax.shard_map(fn, in_specs=BOTH, out_specs=out, check_vma=False)


ROWS = ((64, 32), jnp.float32, BOTH)  # 8 x 32 float32 on each device: 1,024 bytes


@pytest.mark.parametrize(
    ("fn", "kind", "axes", "size", "sent"),
    [
        (lambda x: jax.lax.psum(x, "fsdp"), "all-reduce", ("fsdp",), 1_024, 2 * 1_024 * 3 / 4),
        (lambda x: jax.lax.psum(x, "data"), "all-reduce", ("data",), 1_024, 1_024),
        (lambda x: jax.lax.psum(x, ("data", "fsdp")), "all-reduce", ("data", "fsdp"), 1_024, 2 * 1_024 * 7 / 8),
        (lambda x: jax.lax.all_gather(x, "fsdp", tiled=True), "all-gather", ("fsdp",), 4 * 1_024, 3 * 1_024),
        (lambda x: jax.lax.all_gather(x, "data", tiled=True), "all-gather", ("data",), 2 * 1_024, 1_024),
        (lambda x: jax.lax.psum_scatter(x, "fsdp", tiled=True), "reduce-scatter", ("fsdp",), 1_024, 1_024 * 3 / 4),
        (lambda x: jax.lax.all_to_all(x, "fsdp", 0, 1, tiled=True), "all-to-all", ("fsdp",), 1_024, 1_024 * 3 / 4),
        (lambda x: jax.lax.ppermute(x, "data", [(0, 1), (1, 0)]), "collective-permute", ("data",), 1_024, 1_024),
    ],
)
def test_a_collective_is_read_with_its_axes_and_its_bytes(mesh, fn, kind, axes, size, sent):
    (found,) = moved(read(inside(fn), mesh, ROWS))
    assert (found.start.kind, found.start.axes, found.start.size, found.times) == (kind, axes, size, 1)
    assert found.start.sent == sent


def test_what_is_passed_round_in_a_loop_counts_with_every_trip(mesh):
    pairs = [(i, (i + 1) % 8) for i in range(8)]

    def ring(x):
        def one(carry, _):
            x, total = carry
            return (jax.lax.ppermute(x, ("data", "fsdp"), pairs), total + x @ x.T), None

        return jax.lax.scan(one, (x, jnp.zeros((8, 8))), None, length=5)[0][1]

    events = read(inside(ring), mesh, ROWS)
    (found,) = moved(events)
    assert (found.start.kind, found.start.axes, found.start.sent, found.times) == ("collective-permute", ("data", "fsdp"), 1_024, 5)
    assert computed(events).flops == 5 * 2 * 8 * 32 * 8
    assert [event.trips for event in events if isinstance(event, Loop)] == [5]


def test_the_gradients_of_replicated_weights_are_summed_over_all_devices(mesh):
    """Left to the compiler: only the sum over rows needs other devices, and it is as large as the weights."""

    def step(w, x):
        return w - jax.grad(lambda w: ((x @ w) ** 2).sum())(w)

    found = moved(read(step, mesh, ((32, 16), jnp.float32, PartitionSpec()), ROWS, out_shardings=NamedSharding(mesh, PartitionSpec())))
    assert [(m.start.kind, m.start.axes, m.start.size) for m in found] == [("all-reduce", ("data", "fsdp"), 4 * 32 * 16)]


def test_weights_that_are_split_are_gathered(mesh):
    found = moved(read(lambda w, x: x @ w, mesh, ((256, 128), jnp.float32, PartitionSpec("fsdp")), ((64, 256), jnp.float32, BOTH)))
    assert [(m.start.kind, m.start.axes, m.start.size) for m in found] == [("all-gather", ("fsdp",), 4 * 256 * 128)]


GROUPS = {
    "{{0,1,2,3},{4,5,6,7}}": ("fsdp",),
    "{{0,4},{1,5},{2,6},{3,7}}": ("data",),
    "[2,4]<=[8]": ("fsdp",),
    "[4,2]<=[2,4]T(1,0)": ("data",),
    "[1,8]<=[8]": ("data", "fsdp"),
    "{}": ("data", "fsdp"),
    "mesh['axis_0'=2,'axis_1'=4] {'axis_1'}": ("fsdp",),
    "mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}": ("data", "fsdp"),
    "mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}": ("fsdp",),
    "mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_2'}": ("data",),
}


def module(groups, op="all-reduce", shape="f32[8,32]"):
    done = f"  ROOT %b = {shape} {op}(%a), channel_id=1, replica_groups={groups}, use_global_device_ids=true, to_apply=%add\n"
    return f"HloModule x\n\nENTRY %main (a: {shape}) -> {shape} {{\n  %a = {shape} parameter(0)\n{done}}}\n"


@pytest.mark.parametrize("groups", GROUPS)
def test_all_forms_of_groups_say_the_same(groups):
    (found,) = moved(schedule(module(groups), SIZES))
    assert found.start.axes == GROUPS[groups]
    assert found.start.group == np.prod([SIZES[axis] for axis in found.start.axes])


@pytest.mark.parametrize(("begin", "step", "limit", "trips"), [(0, 1, 8, 8), (0, 2, 8, 4), (1, 3, 8, 3), (4, 1, 8, 4)])
def test_trips_are_counted_by_the_loops_counter(begin, step, limit, trips):
    """TPU's do not say how many there are, and those that pass on the factors of a product take two steps at a time."""
    text = (HLO / "ring.txt").read_text()
    text = text.replace("%constant.2.clone.1 = s32[]{:T(128)} constant(0)", f"%constant.2.clone.1 = s32[]{{:T(128)}} constant({begin})")
    text = text.replace("%constant.1.clone.2 = s32[]{:T(128)} constant(8)", f"%constant.1.clone.2 = s32[]{{:T(128)}} constant({limit})")
    text = text.replace("sunk = s32[]{:T(128)} constant(1)", f"sunk = s32[]{{:T(128)}} constant({step})")
    assert [event.trips for event in schedule(text, SIZES) if isinstance(event, Loop)] == [trips]


def test_what_is_not_understood_is_refused():
    with pytest.raises(ValueError, match=r"The groups of b are in a form that is not known"):
        schedule(module("mesh['x'=8] {'x':(2)4}"), SIZES)
    loop = (HLO / "ring.txt").read_text().replace("direction=LT", "direction=NE")
    with pytest.raises(ValueError, match=r"The number of trips of the loop while.13 cannot be read off it"):
        schedule(loop, SIZES)


def test_the_forms_of_the_compiler_for_tpus():
    """Three layers of 1,024 x 1,024, split over four chips and computed in bfloat16: gathered, one of them beside the products of
    two others; their gradients in float32, which are scattered, then added up over the other axis.
    """
    events = schedule((HLO / "fsdp.txt").read_text(), SIZES)
    found = [(m.start.kind, m.start.axes, m.start.size, m.asynchronous) for m in moved(events)]
    layer = 1_024 * 1_024
    gathered = [("all-gather", ("fsdp",), 2 * layer, beside) for beside in (False, False, True)]
    reduced = [("all-reduce", ("data",), 3 * 4 * layer // 4, False)]
    assert found == gathered + [("reduce-scatter", ("fsdp",), 4 * layer, False)] * 3 + reduced
    begin = next(i for i, e in enumerate(events) if isinstance(e, Start) and e.name == moved(events)[2].start.name)
    meanwhile = events[begin + 1 : events.index(Done(events[begin].name))]
    assert computed(meanwhile).flops == 2 * (2 * 512 * layer)
    assert computed(events).flops == 8 * (2 * 512 * layer)  # 3 forward, 3 + 2 backward


def test_a_ring_on_tpus_passes_on_while_it_computes():
    events = schedule((HLO / "ring.txt").read_text(), SIZES)
    (found,) = moved(events)
    assert found == (Start("collective-permute-start", "collective-permute", ("data", "fsdp"), 8, 2 * 512 * 1_024), 8, True)
    assert computed(events).flops == 8 * 2 * 512 * 1_024 * 512


@pytest.mark.parametrize(
    ("window", "flops"),
    [
        (dict(window_strides=(4, 4), padding="VALID"), 2 * 2 * 8 * 8 * 5 * (4 * 4 * 3)),  # patches
        (dict(window_strides=(1, 1), padding=[(3, 3), (0, 0)]), 2 * 2 * 5 * 3 * (4 * 32 * 4 * 29)),  # no row of the padding counts
    ],
)
def test_products_of_convolutions_count_without_padding(mesh, window, flops):
    def fn(x, w):
        return jax.lax.conv_general_dilated(x, w, **window, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    whole = PartitionSpec()
    events = read(fn, mesh, ((2, 32, 32, 3), jnp.float32, whole), ((4, 4, 3, 5), jnp.float32, whole))
    assert computed(events).flops == flops


def test_batched_products_that_are_written_as_convolutions():
    """TPU's attention logits of 64 rows and 8 heads: rows and heads are dimensions of a window that fits in one place each."""
    line = "  ROOT %c = f32[64,8,77,77] convolution(%a, %b), window={size=64x8 stride=63x7 lhs_dilate=64x8}, dim_labels=0b1f_0o1i->01bf\n"
    begin = "HloModule x\n\nENTRY %main (a: bf16[64,77,8,64], b: bf16[64,77,8,64]) -> f32[64,8,77,77] {\n"
    given = "".join(f"  %{name} = bf16[64,77,8,64] parameter({i})\n" for i, name in enumerate("ab"))
    assert computed(schedule(begin + given + line + "}\n", SIZES)) == Compute(
        2.0 * 64 * 8 * 77 * 77 * 64, 2.0 * 2 * 64 * 77 * 8 * 64 + 4 * 64 * 8 * 77 * 77
    )
