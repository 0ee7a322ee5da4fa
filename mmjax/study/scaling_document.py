"""The document that the numbers of the scaling plan's programs make."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.config import UserError
from mmjax.contract import write_atomic
from mmjax.study.collectives import Compute, moved
from mmjax.study.document import about, table
from mmjax.study.scaling import Program, Speeds
from mmjax.study.scaling_plan import (
    AXES,
    AXIS,
    CACHED,
    COUNTS,
    FSDP,
    GLOBAL,
    LARGE,
    LOSSES,
    MODELS,
    RING,
    ROWS,
    SIZES,
    SLOW,
    SO400M,
    STRONG,
    UNROLLED,
    WAYS,
    WEAK,
    WHOLE,
    WIDTHS,
    Case,
    Loss,
    Plan,
)
from mmjax.train.chips import CHIPS, GIB

CLOCK = 1.75e9  # of v5p: what its 459 TFLOP/s are with 2 x 4 units of 128 x 128 multiplications and additions
PAIRS = [(model, loss) for model in MODELS for loss in ("softmax", "sigmoid") if (loss, WIDTHS[model]) in SIZES]
LARGEST = LARGE[-len(WAYS) :]
TEMPLATE = "scaling.md.jinja"
SPEEDS = {
    "as above": Speeds(),
    "arithmetic and memory at 0.3": Speeds(arithmetic=0.3, memory=0.3),
    "arithmetic and memory at 0.8": Speeds(arithmetic=0.8, memory=0.8),
    "links at 0.4": Speeds(links=0.4),
    "hops of 3 µs": Speeds(hop=3e-6),
    "instructions of 0.3 µs at least": Speeds(least=3e-7),
}


def document(programs: Mapping[Any, Program], made: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes the document, and its pictures beside it.

    Args:
        programs: those of all CASES.
        made: of each, the `seconds` that it took to compile, and the `environment`.
        path: where to.

    Raises:
        UserError: what the text says does not follow from these programs.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    plan = Plan(programs)
    if wrong := [claim for claim, holds in _claims(plan).items() if not holds]:
        raise UserError(f"{path}: what {Path(__file__).with_name(TEMPLATE)} says does not hold any more: {wrong[0]}.")
    write_atomic(path.with_name("scaling_efficiency.svg"), _efficiency_picture(plan))
    write_atomic(path.with_name("scaling_loss.svg"), _loss_picture(plan))
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True)
    chip, speeds = CHIPS["v5p"], Speeds()
    values = {
        "about": _about(list(made)),
        "rows": ROWS,
        "batch": f"{GLOBAL:,}",
        "largest": SO400M,
        "says": _says(plan),
        "checks": _checks(plan),
        "tables": {name: make(plan) for name, make in TABLES.items()},
        "speeds": speeds._asdict() | {"hop": f"{speeds.hop * 1e6:.0f}", "least": f"{speeds.least * 1e6:.1f}"},
        "chip": {
            "arithmetic": f"{chip.flops / 1e12:,.0f}",
            "memory": f"{chip.memory_bandwidth / 1e9:,.0f}",
            "link": f"{chip.link_bandwidth / 1e9:,.0f}",
            "clock": f"{CLOCK / 1e9:.2f}",
        },
    }
    write_atomic(path, templates.get_template(TEMPLATE).render(values))


def _claims(plan: Plan) -> dict[str, bool]:
    """What the text says besides numbers, and whether these programs bear it out."""
    towers = {model: plan.towers(model, 8) / plan.towers(model, WHOLE) for model in MODELS}
    dense, chunked, ring = LARGEST
    return {
        "a model without its loss keeps more of its throughput than with it": all(
            towers[model] > plan.efficiency(model, WHOLE, loss) for model, loss in PAIRS
        ),
        "the ring is slower than dense logits on 4,096 chips": all(
            plan.efficiency(model, WHOLE, loss, "ring") < plan.efficiency(model, WHOLE, loss) for model, loss in PAIRS
        ),
        "the ring needs the least memory": plan.programs[ring].needs < min(plan.programs[case].needs for case in (dense, chunked)),
        "the ring gains on dense logits with rows": plan.step(ring).seconds / plan.step(dense).seconds
        < plan.step(Loss(ring.loss, ring.width, ring.chips, logits="ring")).seconds / plan.step(dense._replace(rows=ROWS)).seconds,
        "a longer step with fsdp on 8 chips": plan.step(FSDP[0]).seconds > plan.step(Case(SO400M, 8)).seconds,
        "a fixed batch loses throughput": all(plan.strong(case) < 1 for case in STRONG if case.chips == WHOLE),
    }


def _about(made: Sequence[Mapping[str, Any]]) -> str:
    minutes = sum(record["seconds"] for record in made) / 60
    told = f"{len(made)}, compiled in {minutes:,.0f} minutes beside other work"
    return about([record["environment"] for record in made], ("jax", "flax", "optax", "libtpu"), programs=told)


def _says(plan: Plan) -> dict[str, str]:
    """The numbers of the statements; what could turn out otherwise is chosen by them."""
    ratios = {n: [plan.step(Loss(*size, n, logits="ring")).seconds / plan.step(Loss(*size, n)).seconds for size in SIZES] for n in COUNTS}
    turns = [plan.step(Loss(*size, WHOLE, logits="ring")).seconds / (2 * WHOLE) for size in SIZES]
    axes = {_mesh(plan, case): plan.step(case).seconds for case in (AXIS, *AXES) if plan.programs[case].fits}
    before = plan.programs[Case(SO400M, 8)]
    large = LARGEST[0]
    return {
        "towers": _range((plan.towers(model, 8) / plan.towers(model, WHOLE) for model in MODELS), _two),
        "gradients": _range((_gradients(plan, model) / 1e6 for model in MODELS), "{:,.0f}".format),
        "dense": _range((plan.efficiency(model, WHOLE, loss) for model, loss in PAIRS), _two),
        "ring": _range((plan.efficiency(model, WHOLE, loss, "ring") for model, loss in PAIRS), _two),
        "turn": _range((turn * 1e6 for turn in turns), "{:.0f}".format),
        "ratios": _listed(f"{_range(values, '{:.1f}'.format)} times as long on {n:,} chips" for n, values in ratios.items()),
        "large_rows": f"{large.rows:,}",
        "large_chips": f"{large.chips:,}",
        "large_batch": f"{large.rows * large.chips:,}",
        "large_loss": f"{large.loss} at width {large.width}",
        "large": _listed(f"{_alone(plan, case)} ms and {_gib(plan.programs[case].needs)} GiB `{case.logits}`" for case in LARGEST),
        "small": _range((plan.programs[Loss(*size, WHOLE)].needs / GIB for size in SIZES), "{:.1f}".format),
        "equal": _listed(f"{_equal_batch(plan, model):,.0f} ({model})" for model in MODELS),
        "fsdp": f"`fsdp={FSDP[1].mesh['fsdp']}`",
        "sharded": _two(plan.step(FSDP[1]).seconds / plan.step(Case(SO400M, WHOLE)).seconds),
        "strong_rows": str(AXIS.rows),
        "strong": _range((plan.strong(case) for case in STRONG if case.chips == WHOLE), _two),
        "axes": _listed(f"{_ms(seconds)} ms with {mesh}" for mesh, seconds in sorted(axes.items(), key=lambda item: item[1])),
        "fastest": min(axes, key=lambda mesh: axes[mesh]),
        "reduced": _listed(f"{n:,}" for n in COUNTS if not any(kind == "all-gather" for kind, _ in plan.step(Case("CLIP B/16", n)).moved)),
        "beside": f"{max(_beside(plan, case, 'all-reduce') for case in plan.programs if plan.programs[case].fits):.0%}",
        "expected": _gib(before.needs - before.arguments * 7 / 8),
        "split": _gib(plan.programs[FSDP[0]].needs),
    }


def _checks(plan: Plan) -> dict[str, str]:
    by_hand = []
    for case in WEAK:
        program = plan.programs[case]
        loss = 6.0 * case.rows * program.batch * WIDTHS[case.model]
        by_hand.append(program.total().flops / (case.rows * (3 * program.by_hand["forward"] + program.by_hand["again"]) + loss))
    slow = [case for case, program in plan.programs.items() if not case.quick and program.fits]
    expected = {case: plan.step(case).computing / (plan.programs[case].total().cycles / CLOCK) for case in slow}
    steps, losses = ([expected[case] for case in slow if isinstance(case, kind)] for kind in (Case, Loss))
    scanned, unrolled = (plan.programs[case].total() for case in UNROLLED)
    composed = plan.seconds(RING.model, WHOLE, LOSSES[RING.model], "ring") / plan.step(RING).seconds
    smallest = min((e.cycles for case in slow for e in plan.programs[case].events if isinstance(e, Compute) and e.cycles), default=0.0)
    quick = SLOW._replace(quick=True)
    return {
        "by_hand": _range(by_hand, "{:.3f}".format),
        "xla": f"{plan.programs[UNROLLED[1]].xla_flops / unrolled.flops:.3f}",
        "steps": _range(steps, _two),
        "step_count": str(len(steps)),
        "losses": _range(losses, _two),
        "scan_flops": f"{scanned.flops / unrolled.flops:.3f}",
        "scan_bytes": _two(scanned.bytes / unrolled.bytes),
        "scan_sent": f"{plan.sent(UNROLLED[0]) / plan.sent(UNROLLED[1]):.3f}",
        "ring": RING.model,
        "composed": f"{composed:.3f}",
        "smallest": f"{smallest:,.0f}",
        "slow": SLOW.model,
        "quick_time": f"{plan.step(quick).seconds / plan.step(SLOW).seconds:.3f}",
        "quick_sent": f"{plan.sent(quick) / plan.sent(SLOW):.3f}",
        "quick_memory": _two(plan.programs[quick].needs / plan.programs[SLOW].needs),
    }


def _beside(plan: Plan, case: Any, kind: str) -> float:
    """The share of the time of such collectives in which something is computed."""
    found = [(seconds, waited) for (k, _), (_, seconds, waited) in plan.step(case).moved.items() if k == kind and seconds]
    return max(1 - sum(w for _, w in found) / sum(s for s, _ in found), 0.0) if found else 0.0


def _gradients(plan: Plan, model: str) -> float:
    """Bytes that a chip sends in a step on 4,096 chips, without the loss's."""
    return plan.sent(Case(model, WHOLE)) - plan.sent(Loss(LOSSES[model], WIDTHS[model], WHOLE, quick=True))


def _equal_batch(plan: Plan, model: str) -> float:
    """The batch at which the loss, whose bytes are proportional to it, sends as much as gradients."""
    return _gradients(plan, model) / (plan.sent(Loss(LOSSES[model], WIDTHS[model], WHOLE)) / (ROWS * WHOLE))


def _efficiencies(plan: Plan) -> str:
    rows = []
    for model, loss in PAIRS:
        ways = [plan.efficiency(model, WHOLE, loss, way) for way in ("chunked", "ring")]
        rows.append([model, loss, *(_two(plan.efficiency(model, n, loss)) for n in COUNTS), *map(_two, ways)])
    head = ["model", "loss", *(f"{n:,} chips" for n in COUNTS), "4,096, `chunked`", "4,096, `ring`"]
    return table(head, rows, left=2)


def _weak(plan: Plan) -> str:
    rows = []
    for case in WEAK:
        step, program = plan.step(case), plan.programs[case]
        alone = plan.step(Loss(LOSSES[case.model], WIDTHS[case.model], case.chips, quick=True))
        times = map(_ms, (step.computing, step.seconds - step.computing, alone.seconds, step.seconds))
        rate = f"{program.batch / step.seconds:,.0f}"
        rows.append([case.model, f"{case.chips:,}", f"{program.batch:,}", *times, rate, _two(plan.used(case)), _gib(program.needs)])
    times = ["computing, ms", "waiting, ms", "of both the loss, ms", "step, ms"]
    return table(["model, own loss, `dense`", "chips", "batch", *times, "pairs/s", "arithmetic used", "memory, GiB"], rows)


def _strong(plan: Plan) -> str:
    rows = []
    for model in dict.fromkeys(case.model for case in STRONG):
        cases = [case for case in (CACHED, *STRONG, Case(model, GLOBAL // ROWS)) if case.model == model]
        for case in sorted(cases, key=lambda case: case.chips):
            program, told = plan.programs[case], ["does not fit", "", "", ""]
            if program.fits:
                step = plan.step(case)
                times = map(_ms, (step.computing, step.seconds - step.computing))
                told = [*times, f"{program.batch / step.seconds:,.0f}", _two(plan.strong(case))]
            cache = str(case.cache) if case.cache > 1 else ""
            rows.append([model, f"{case.chips:,}", f"{case.rows:,}", cache, *told, _gib(program.needs)])
    columns = ["chips", "rows a chip", "`cache`", "computing, ms", "waiting, ms", "pairs/s", "efficiency", "memory, GiB"]
    return table(["model, own loss, `dense`", *columns], rows)


def _losses(plan: Plan) -> str:
    rows = []
    for loss, width in SIZES:
        for way in WAYS:
            cases = [Loss(loss, width, n, logits=way) for n in COUNTS]
            memory = f"{plan.programs[cases[-1]].needs / GIB:.2f}"
            rows.append([loss, width, f"`{way}`", *(_alone(plan, case) for case in cases), _mb(plan.sent(cases[-1])), memory])
    head = ["loss", "width", "logits", *(f"{n:,} chips, ms" for n in COUNTS), "4,096: sent, MB", "memory, GiB"]
    return table(head, rows, left=3)


def _large(plan: Plan) -> str:
    rows = []
    for case in LARGE:
        program, told = plan.programs[case], _alone(plan, case)
        rows.append([f"`{case.logits}`", f"{case.rows:,}", f"{program.batch:,}", told, _mb(plan.sent(case)), _gib(program.needs)])
    return table(["logits", "rows a chip", "batch", "loss, ms", "sent, MB", "memory, GiB"], rows)


def _alone(plan: Plan, loss: Loss) -> str:
    return _ms(plan.step(loss).seconds) if plan.programs[loss].fits else "does not fit"


def _state(plan: Plan) -> str:
    rows, chips = [], [CHIPS[name] for name in ("v5e", "v6e", "v5p")]
    for model in MODELS:
        program = plan.programs[Case(model, 8)]
        told = [f"{program.by_hand['parameters'] / 1e6:,.0f}", _gib(program.arguments), _gib(program.needs - program.arguments)]
        rows.append([model, *told, *(_narrowest(program, chip.usable) for chip in chips)])
    last = [f"`fsdp` on {chip.name}, {_gib(chip.usable)} GiB" for chip in chips]
    return table(["model", "parameters, million", "state and batch, GiB", "all else, GiB", *last], rows)


def _narrowest(program: Program, memory: int) -> str:
    """How wide `fsdp` has to be: the state is divided by it, all else is as it is."""
    sizes = [2**i for i in range(9)]
    return next((str(n) for n in sizes if program.needs - program.arguments * (1 - 1 / n) <= memory), "fewer rows")


def _axes(plan: Plan) -> str:
    rows = []
    for case in [Case(SO400M, 8), FSDP[0], Case(SO400M, WHOLE), FSDP[1], AXIS, *AXES]:
        program, told = plan.programs[case], ["does not fit", "", "", ""]
        if program.fits:
            step = plan.step(case)
            told = [_mb(plan.sent(case)), *map(_ms, (step.computing, step.seconds - step.computing, step.seconds))]
        rows.append([_mesh(plan, case), f"{program.batch:,}", *told, _gib(program.needs)])
    return table(["mesh", "batch", "sent, MB", "computing, ms", "waiting, ms", "step, ms", "memory, GiB"], rows)


def _mesh(plan: Plan, case: Case) -> str:
    sizes = ", ".join(f"{axis}={size:,}" for axis, size in plan.programs[case].mesh.items() if size > 1)
    return f"`{sizes}`"


def _sent(plan: Plan) -> str:
    rows = []
    for case in [Case("CLIP B/16", 8), Case("CLIP B/16", WHOLE), Case(SO400M, WHOLE), RING, FSDP[1], *AXES]:
        name = f"{case.model}, {_mesh(plan, case)}, {case.rows} rows a chip" + (", `ring`" if case.logits == "ring" else "")
        for (kind, axes), (sent, seconds, waited) in sorted(plan.step(case).moved.items(), key=lambda item: -item[1][0]):
            if sent >= 1e5:
                count = sum(m.times for m in moved(plan.programs[case].events) if (m.start.kind, m.start.axes) == (kind, axes))
                along, beside = " and ".join(f"`{axis}`" for axis in axes), f"{max(1 - waited / seconds, 0):.0%}"
                rows.append([name, kind, along, f"{count:,}", _mb(sent), _ms(seconds), beside])
                name = ""
    return table(["program", "kind", "axes", "times", "sent, MB", "ms", "beside computing"], rows, left=3)


def _assumed(plan: Plan) -> str:
    rows = []
    for name, speeds in SPEEDS.items():
        dense = [_two(plan.efficiency(model, WHOLE, LOSSES[model], "dense", speeds)) for model in MODELS]
        ring = [_two(plan.efficiency(model, WHOLE, LOSSES[model], "ring", speeds)) for model in ("CLIP B/16", SO400M)]
        rows.append([name, *dense, *ring])
    return table(["assumed", *(f"{m}, `dense`" for m in MODELS), *(f"{m}, `ring`" for m in ("CLIP B/16", SO400M))], rows)


TABLES: dict[str, Callable[[Plan], str]] = {
    "efficiency": _efficiencies,
    "weak": _weak,
    "strong": _strong,
    "loss": _losses,
    "large": _large,
    "state": _state,
    "axes": _axes,
    "sent": _sent,
    "assumed": _assumed,
}


def _listed(found: Iterable[str]) -> str:
    words = list(found)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _range(values: Iterable[float], show: Callable[[float], str]) -> str:
    values = list(values)
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def _two(value: float) -> str:
    return f"{value:.2f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f}" if size >= 1e7 else f"{size / 1e6:,.1f}"


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f}"


def _efficiency_picture(plan: Plan) -> str:
    curves = {}
    for model in MODELS:
        curves[model] = ([plan.efficiency(model, n, LOSSES[model]) for n in COUNTS], "-")
        curves[f"{model}, ring"] = ([plan.efficiency(model, n, LOSSES[model], "ring") for n in COUNTS], "--")
    return _picture(curves, "efficiency beside 8 chips, modelled", log=False)


def _loss_picture(plan: Plan) -> str:
    style = {"dense": "-", "chunked": ":", "ring": "--"}
    curves = {
        f"{loss} {width}, {way}": ([plan.step(Loss(loss, width, n, logits=way)).seconds * 1e3 for n in COUNTS], style[way])
        for loss, width in (("softmax", 512), ("sigmoid", 1152))
        for way in WAYS
    }
    curves |= {"CLIP B/16 without its loss": ([plan.towers("CLIP B/16", n) * 1e3 for n in COUNTS], "-")}
    return _picture(curves, "milliseconds, modelled", log=True)


COLOURS = ("#1d5fc4", "#b8480a", "#14713f", "#7d3cb5")


def _picture(curves: Mapping[str, tuple[Sequence[float], str]], label: str, log: bool) -> str:
    """Lines over numbers of chips, by name; those whose names begin alike, up to a comma, have one colour."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(name.split(",")[0] for name in curves))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scaling", "font.size": 9}):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for name, (values, style) in curves.items():
            colour = COLOURS[groups.index(name.split(",")[0]) % len(COLOURS)]
            axes.plot(COUNTS, values, style, color=colour, label=name, marker="o", markersize=3.5, linewidth=1.6)
        axes.set_xscale("log", base=2)
        axes.set_xticks(COUNTS, [f"{n:,}" for n in COUNTS])
        axes.set_xlabel("chips")
        axes.set_ylabel(label)
        axes.set_yscale("log" if log else "linear")
        if not log:
            axes.set_ylim(0, 1.05)
        axes.grid(axis="y", linewidth=0.5, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
