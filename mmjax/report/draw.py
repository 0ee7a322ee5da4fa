"""Curves and matrices as SVG that takes its colours and its font from the page.

matplotlib draws with colours that stand for CSS variables and are replaced afterwards, so that one drawing serves light
and dark mode. Words that come from a run (names, labels) are never handed to matplotlib: they may be in any script,
and the browser has the fonts. They stand in HTML or in SVG text that is written here.
"""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from mmjax.contract import Intervals, Lines, Matrix, Plane, Reliability, Scatter
from mmjax.report.metrics import natural, show

SERIES = 6  # colours and marks, as the style sheet has them
MARKS = "osD^vP"
MARK_SIGNS = "●■◆▲▼✚"
_COLOURS = {"#0a0b01": "--ink", "#0a0b02": "--muted", "#0a0b03": "--line", "#0a0b04": "--card"}
_COLOURS |= {f"#0a0c{i:02x}": f"--series{i}" for i in range(SERIES)}
_INK, _MUTED, _LINE, _CARD = list(_COLOURS)[:4]


@dataclass
class Line:
    """One curve: finite and other values by step, and the step to mark as best."""

    name: str
    curve: dict[int, float]
    best: int | None = None
    chance: float = math.nan


@dataclass
class Panel:
    """A small chart with a title of its own."""

    title: str
    lines: list[Line] = field(default_factory=list)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The centred mean over `window` values; ends and NaNs are left out of it, not counted as zero."""
    finite = np.isfinite(values)
    ones = np.ones(window)
    total = np.convolve(np.where(finite, values, 0.0), ones, mode="same")
    return total / np.maximum(np.convolve(finite, ones, mode="same"), 1)


def smoothing(points: int) -> int:
    """How many logged values the thick line averages: 1 (none) for few points."""
    return max(1, points // 30) if points >= 60 else 1


def panel_svg(panel: Panel, prefix: str, alt: str) -> Markup:
    """Draws a panel. `prefix` keeps its element ids apart from those of the page's other drawings."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator

    style: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": prefix, "font.size": 10, "text.color": _MUTED, "axes.edgecolor": _LINE,
        "xtick.color": _LINE, "ytick.color": _LINE, "xtick.labelcolor": _MUTED, "ytick.labelcolor": _MUTED,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.8, 2.6), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=_LINE, linewidth=0.6)
        for i, line in enumerate(panel.lines):
            _draw_line(axes, line, f"#0a0c{i % SERIES:02x}", MARKS[i % SERIES])
        steps = {step for line in panel.lines for step in line.curve}
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True) if len(steps) > 1 else FixedLocator(list(steps)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5), useMathText=False)
        axes.set_xlabel("step", color=_MUTED)
        axes.margins(y=0.1)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_page(out.getvalue(), prefix, alt)


def _draw_line(axes, line: Line, colour: str, mark: str) -> None:
    steps, values = np.array(list(line.curve)), np.array(list(line.curve.values()))
    values = np.where(np.isfinite(values), values, np.nan)
    window = smoothing(len(values))
    if window > 1:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
        axes.plot(steps, running_mean(values, window), color=colour, linewidth=1.8)
    else:
        few = len(values) <= 30  # a lone point between two gaps, or the only one, would not show as a line
        axes.plot(steps, values, color=colour, linewidth=1.8, marker=mark if few else None, markersize=3.5)
    if line.best is not None:
        axes.plot([line.best], [line.curve[line.best]], mark, color=colour, markersize=8, markeredgecolor=_INK, markeredgewidth=1.4)
    if math.isfinite(line.chance):
        axes.axhline(line.chance, color=colour, linewidth=1.2, linestyle=(0, (4, 3)))


def _for_page(svg: str, prefix: str, alt: str) -> Markup:
    """matplotlib's SVG document as an element of a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style .*?</style>|<style>.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    box = re.findall(r'viewBox="[\d. ]+"', svg)[0]
    head = f'<svg class="chart" {box} role="img" aria-label="{escape(alt)}">'
    return Markup(head + svg[svg.index(">") + 1 :])


LABELS = 48  # rows or columns up to which each is labelled
NUMBERS = 12  # and up to which each cell has its number


def matrix_svg(matrix: Matrix, alt: str) -> Markup:
    """A picture of the matrix with a colour bar; rows, columns and cells are labelled where there is room."""
    import matplotlib as mpl

    values = np.array(matrix.values, float)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"a matrix of shape {values.shape}")
    height, width = values.shape
    numbers = max(height, width) <= NUMBERS
    cell = 34 if numbers else max(2.0, min(16.0, 640 / max(height, width)))
    row_labels = matrix.rows if height == len(matrix.rows) and height <= LABELS else []
    column_labels = matrix.columns if width == len(matrix.columns) and width <= LABELS else []
    left = 8 + 6.5 * max((min(len(str(r)), 26) for r in row_labels), default=2)
    top = 8 + 6.5 * max((min(len(str(c)), 26) for c in column_labels), default=2)
    w, h = width * cell, height * cell

    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    shade = (values - low) / ((high - low) or 1.0)
    colours = mpl.colormaps["viridis"].with_extremes(bad="#80808000")(np.ma.masked_invalid(shade), bytes=True)
    bar = mpl.colormaps["viridis"](np.linspace(1, 0, 64)[:, None], bytes=True)
    bar_height = max(h, 60)

    out = [_image(colours, left, top, w, h), _image(bar, left + w + 14, top, 10, bar_height)]
    for i, text in enumerate(row_labels):
        out.append(_text(text, left - 6, top + (i + 0.5) * cell, "end"))
    for j, text in enumerate(column_labels):
        x = left + (j + 0.5) * cell
        out.append(_text(text, x, top - 6, "start", f' transform="rotate(-90 {x:.1f} {top - 6:.1f})"'))
    if numbers:
        for (i, j), value in np.ndenumerate(values):
            dark = np.isfinite(value) and shade[i, j] < 0.6
            number = f"{value:.2g}" if np.isfinite(value) else "–"
            ink = ' class="on-dark"' if dark else ' class="on-light"'
            out.append(_text(number, left + (j + 0.5) * cell, top + (i + 0.5) * cell, "middle", ink))
    out.append(_text(show(high), left + w + 28, top + 5, "start"))
    out.append(_text(show(low), left + w + 28, top + bar_height - 5, "start"))
    total_w, total_h = left + w + 80, top + bar_height + 8
    head = f'<svg class="matrix" viewBox="0 0 {total_w:.0f} {total_h:.0f}" width="{total_w:.0f}" role="img" aria-label="{escape(alt)}">'
    return Markup(head + "".join(out) + "</svg>")


SIZE = 420  # of a map's longer side, in CSS pixels
_PATHS = (  # of MARKS, about a point, in steps that begin there
    "m-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0z", "m-2.6,-2.6h5.2v5.2h-5.2z", "m0,-3.6l3.6,3.6l-3.6,3.6l-3.6,-3.6z",
    "m0,-3.4l3.3,5.8h-6.6z", "m0,3.4l3.3,-5.8h-6.6z", "m-1.1,-3.4h2.2v2.3h2.3v2.2h-2.3v2.3h-2.2v-2.3h-2.3v-2.2h2.3z",
)  # fmt: skip


def scatter_groups(names: list[str | None]) -> list[dict[str, Any]]:
    """The groups in order, each with its points, colour and mark: 36 can be told apart, and those without a group are small."""
    found = []
    for i, name in enumerate(sorted({name for name in names if name is not None}, key=natural)):
        points = [j for j, other in enumerate(names) if other == name]
        found.append({"name": name, "points": points, "series": i % SERIES, "mark": (i + i // SERIES) % SERIES})
    rest = [j for j, name in enumerate(names) if name is None]
    return found + ([{"name": "none", "points": rest, "series": None, "mark": 0}] if rest else [])


def scatter_svg(scatter: Scatter, groups: list[dict[str, Any]], alt: str) -> Markup:
    """The points in the colours and marks of `groups`, true to scale, each group one path."""
    xy = np.array([scatter.x, scatter.y], float).T
    if len(xy) and not np.isfinite(xy).all():
        raise ValueError("points that are not finite")
    low, high = (xy.min(axis=0), xy.max(axis=0)) if len(xy) else (np.zeros(2), np.ones(2))
    scale = (SIZE - 16) / (float((high - low).max()) or 1.0)
    width, height = (high - low) * scale + 16
    places = (xy - low) * scale + 8
    places[:, 1] = height - places[:, 1]
    out = []
    for group in reversed(groups):
        path = "".join(f"M{x:.1f},{y:.1f}{_PATHS[group['mark']]}" for x, y in places[group["points"]])
        out.append(f'<path class="{"none" if group["series"] is None else "s" + str(group["series"])}" d="{path}"/>')
    head = f'<svg class="scatter" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(alt)}">'
    return Markup(head + "".join(out) + "</svg>")


PLOT, COUNTS = 240, 60  # sides of a reliability diagram and height of the histogram below it, in CSS pixels


def reliability_svg(bins: Reliability, name: str, alt: str) -> Markup:
    """Accuracy over confidence, a bar a bin, beside the diagonal on which the two are equal; below it how many examples each bin has.

    A dot stands at a bin's mean confidence, and the line from it to the diagonal is the bin's error.
    """
    found = [(float(low), float(high), int(n), float(x), float(y)) for low, high, n, x, y in bins.bins[name]]
    left, top, below = 44.0, 10.0, 10.0 + PLOT + 34
    across, up = lambda x: left + PLOT * x, lambda y: top + PLOT * (1 - y)
    most = max((n for _, _, n, _, _ in found), default=0) or 1
    bars, marks = [], []
    for low, high, n, x, y in found:
        width = max(across(high) - across(low) - 1, 0.5)
        size = COUNTS * n / most
        if n:
            bars.append(f'<rect class="bar" x="{across(low):.1f}" y="{up(y):.1f}" width="{width:.1f}" height="{PLOT * y:.1f}"/>')
            marks.append(f'<path class="gap" d="M{across(x):.1f},{up(y):.1f}V{up(x):.1f}"/>')
            marks.append(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3"/>')
        place = f'x="{across(low):.1f}" y="{below + COUNTS - size:.1f}" width="{width:.1f}" height="{size:.1f}"'
        bars.append(f'<rect class="count" {place}><title>{n:,} examples from {low:.2g} to {high:.2g}</title></rect>')
    frame = f'<path class="axis" d="M{left},{top}V{top + PLOT}H{left + PLOT}M{left},{below}V{below + COUNTS}H{left + PLOT}"/>'
    diagonal = f'<path class="diagonal" d="M{across(0):.1f},{up(0):.1f}L{across(1):.1f},{up(1):.1f}"/>'
    out = [*bars, frame, diagonal, *marks]
    for tick in (0, 0.5, 1):
        out += [_text(f"{tick:g}", across(tick), top + PLOT + 11, "middle"), _text(f"{tick:g}", left - 6, up(tick), "end")]
    out.append(_text("confidence", left + PLOT / 2, top + PLOT + 24, "middle"))
    out.append(_text("share that is right", 10, top + PLOT / 2, "middle", f' transform="rotate(-90 10 {top + PLOT / 2})"'))
    out += [_text(show(most), left - 6, below + 4, "end"), _text("0", left - 6, below + COUNTS, "end")]
    out.append(_text("examples", 10, below + COUNTS / 2, "middle", f' transform="rotate(-90 10 {below + COUNTS / 2})"'))
    size = f"0 0 {left + PLOT + 14:.0f} {below + COUNTS + 8:.0f}"
    return Markup(f'<svg class="reliability" viewBox="{size}" role="img" aria-label="{escape(alt)}">' + "".join(out) + "</svg>")


LINE, ACROSS = 20, 380  # height of a line and width of the axis of intervals


def intervals_svg(found: Intervals, alt: str) -> Markup:
    """A line a name: its value as a dot, its interval as a bar, and the reference as a line through all."""
    values, halves = (np.array(x, float) for x in (found.values, found.halves))
    if not len(found.labels) == len(values) == len(halves):
        raise ValueError("values of another number than the labels")
    halves = np.where(np.isfinite(halves), halves, 0.0)
    ends = np.concatenate([values - halves, values + halves, [] if found.reference is None else [found.reference]])
    scale = _Axis(ends[np.isfinite(ends)])
    left, bottom = 12 + 6.5 * max((min(len(x), 26) for x in found.labels), default=0), LINE * len(values) + 6.0
    x = lambda value: left + ACROSS * scale(value)  # noqa: E731
    out = [f'<path class="grid" d="M{x(tick):.1f},0V{bottom:.1f}"/>' for tick in scale.ticks]
    if found.reference is not None:
        out.append(f'<path class="reference" d="M{x(found.reference):.1f},0V{bottom:.1f}"/>')
    for i, (label, value, half) in enumerate(zip(found.labels, values, halves, strict=True)):
        y = LINE * (i + 0.5)
        out.append(_text(label, left - 8, y, "end"))
        if np.isfinite(value):
            said = f"<title>{escape(label)}: {show(float(value))} ± {show(float(half))}</title>"
            out.append(f'<path class="bar" d="M{x(value - half):.1f},{y:.1f}H{x(value + half):.1f}"/>')
            out.append(f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="4">{said}</circle>')
    out += [_text(scale.show(tick), x(tick), bottom + 10, "middle") for tick in scale.ticks]
    size = f"0 0 {left + ACROSS + 16:.0f} {bottom + 22:.0f}"
    return Markup(f'<svg class="intervals" viewBox="{size}" role="img" aria-label="{escape(alt)}">' + "".join(out) + "</svg>")


def plane_svg(plane: Plane, alt: str) -> Markup:
    """The points with their names, which give way to each other up and down."""
    xs, ys = np.array(plane.x, float), np.array(plane.y, float)
    if not len(plane.labels) == len(xs) == len(ys):
        raise ValueError("points of another number than the labels")
    xs = np.log2(xs) if plane.log else xs
    fine = np.isfinite(xs) & np.isfinite(ys)
    across, up = _Axis(xs[fine]), _Axis(ys[fine])
    left, top, width, height = 48.0, 10.0, 420.0, 300.0
    x, y = lambda v: left + width * across(v), lambda v: top + height * (1 - up(v))
    out = [f'<path class="grid" d="M{left},{y(tick):.1f}h{width}"/>' for tick in up.ticks]
    taken: list[tuple[float, float]] = []
    for i in sorted(np.flatnonzero(fine), key=lambda i: -ys[i]):
        px, py = x(xs[i]), y(ys[i])
        at = py
        while any(abs(at - other) < 11 and abs(px - beside) < 110 for beside, other in taken):
            at += 4
        taken.append((px, at))
        out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4"/>')
        out.append(f'<path class="leader" d="M{px:.1f},{py:.1f}L{px + 7:.1f},{at:.1f}"/>' if at != py else "")
        out.append(_text(plane.labels[i], px + 9, at, "start"))
    named = [(tick, f"{2.0**tick:.3g}") for tick in across.ticks] if plane.log else [(tick, across.show(tick)) for tick in across.ticks]
    low = max([top + height, *(at + 8 for _, at in taken)])
    out += [_text(text, x(tick), low + 12, "middle") for tick, text in named]
    out += [_text(up.show(tick), left - 6, y(tick), "end") for tick in up.ticks]
    size = f"0 0 {left + width + 150:.0f} {low + 22:.0f}"
    return Markup(f'<svg class="plane" viewBox="{size}" role="img" aria-label="{escape(alt)}">' + "".join(out) + "</svg>")


def lines_svg(found: Lines, alt: str) -> Markup:
    """The curves, each with its name at its end; names give way to each other. Colours go by the curves' order, not by their values."""
    curves = {name: np.array(curve, float) for name, curve in found.series.items()}
    steps = max((len(c) for c in curves.values()), default=1)
    every = np.concatenate([*curves.values(), np.zeros(0)])
    up = _Axis(every[np.isfinite(every)])
    left, top, width, height = 48.0, 10.0, 320.0, 220.0
    x, y = lambda i: left + width * i / max(steps - 1, 1), lambda v: top + height * (1 - up(v))
    out = [f'<path class="grid" d="M{left},{y(tick):.1f}h{width}"/>' for tick in up.ticks]
    ends: list[float] = []
    colours = {name: f"s{i % SERIES}" for i, name in enumerate(curves)}
    for name, curve in sorted(curves.items(), key=lambda c: -c[1][-1] if len(c[1]) else 0.0):
        points = [(x(j), y(v)) for j, v in enumerate(curve) if np.isfinite(v)]
        if not points:
            continue
        colour = colours[name]
        out.append(f'<path class="line {colour}" d="M{"L".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>')
        out += [f'<circle class="{colour}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in points]
        at = max(points[-1][1], ends[-1] + 12 if ends else 0.0)
        ends.append(at)
        out.append(f'<path class="leader" d="M{points[-1][0] + 3:.1f},{points[-1][1]:.1f}L{left + width + 10:.1f},{at:.1f}"/>')
        out.append(_text(name, left + width + 13, at, "start", f' class="{colour}"'))
    low = top + height
    out += [_text(str(i), x(i), low + 12, "middle") for i in range(steps)]
    out += [_text(up.show(tick), left - 6, y(tick), "end") for tick in up.ticks]
    size = f"0 0 {left + width + 170:.0f} {max([low + 14, *ends]) + 10:.0f}"
    return Markup(f'<svg class="lines" viewBox="{size}" role="img" aria-label="{escape(alt)}">' + "".join(out) + "</svg>")


def standalone(svg: Markup) -> str:
    """A picture of a page as a file of its own, with the page's style."""
    style = Path(__file__).with_name("style.css").read_text()
    head, tag, rest = svg.partition(">")
    width, height = re.findall(r'viewBox="0 0 (\d+) (\d+)"', head)[0]
    back = '<rect width="100%" height="100%" style="fill: var(--card)"/>'
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"{tag}<style>{style}</style>{back}{rest}\n'


class _Axis:
    """Values to places from 0 to 1, with round ticks."""

    def __init__(self, values: np.ndarray):
        from matplotlib.ticker import MaxNLocator

        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        room = 0.05 * (high - low) or 0.5
        self.low, self.high = low - room, high + room
        self.ticks = [float(t) for t in MaxNLocator(5).tick_values(self.low, self.high) if self.low <= t <= self.high]

    def __call__(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def show(self, tick: float) -> str:
        """A tick's number, 0 without rounding's remainder."""
        return f"{0.0 if abs(tick) < 1e-9 else tick:.4g}"


def data_uri(content: bytes, kind: str = "image") -> str:
    """Encoded bytes as an address that needs no file."""
    known = ((b"OggS", "audio/ogg"), (b"fLaC", "audio/flac"), (b"RIFF", "audio/wav")) if kind == "audio" else ()
    usual = "audio/mpeg" if kind == "audio" else "image/png"
    mime = next((mime for magic, mime in known if content.startswith(magic)), usual)
    return f"data:{mime};base64," + base64.b64encode(content).decode()


def _image(rgba: np.ndarray, x: float, y: float, width: float, height: float) -> str:
    from matplotlib.image import imsave

    out = io.BytesIO()
    imsave(out, np.ascontiguousarray(rgba), format="png")
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<image {place} preserveAspectRatio="none" href="{data_uri(out.getvalue())}"/>'


def _text(text: object, x: float, y: float, anchor: str, more: str = "") -> str:
    text = str(text)
    short = text if len(text) <= 26 else text[:25] + "…"
    title = f"<title>{escape(text)}</title>" if short != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central"{more}>{escape(short)}{title}</text>'
