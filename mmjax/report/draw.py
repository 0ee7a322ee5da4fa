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
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from mmjax.contract import Matrix
from mmjax.report.metrics import show

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


def png_uri(png: bytes) -> str:
    """PNG bytes as an address that needs no file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _image(rgba: np.ndarray, x: float, y: float, width: float, height: float) -> str:
    from matplotlib.image import imsave

    out = io.BytesIO()
    imsave(out, np.ascontiguousarray(rgba), format="png")
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<image {place} preserveAspectRatio="none" href="{png_uri(out.getvalue())}"/>'


def _text(text: object, x: float, y: float, anchor: str, more: str = "") -> str:
    text = str(text)
    short = text if len(text) <= 26 else text[:25] + "…"
    title = f"<title>{escape(text)}</title>" if short != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central"{more}>{escape(short)}{title}</text>'
