"""Writes `report.html`: one page that needs no network and no other file, for a researcher to judge a run at a glance.

Everything here only arranges: `run` reads the folder, `metrics` knows what numbers mean, `draw` makes the pictures,
`page.html.jinja` holds the page. The template escapes all text; only `draw` returns markup.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.contract import Artifact, Bars, Gallery, Intervals, Item, Lines, Matrix, Plane, Reliability, Scatter, Sheet, Table, write_atomic
from mmjax.report import draw, metrics
from mmjax.report.run import Found, Run, read_run

# Curves that tell how the run went rather than how well it learned, and the order they stand in.
RUNNING = ("lr", "examples_per_s", "steps_per_s", "wait_share", "grad_norm")
PANELS = 36  # a page with hundreds of curves is read by nobody
OPEN_PANELS = 6  # validation panels in sight; the rest is folded
LONG = 40  # characters of a bar's label from which it needs room


def write_report(workdir: Path, main: str | None = None) -> Path:
    """Writes `workdir/report.html` from what is there and returns its path.

    `main` is the metric of the headline, `test/retrieval/text_to_image/r@10`; left out, it is the one that the config
    keeps the best checkpoint by, on test data, or else the report picks one.
    Whatever is missing or cannot be read is said on the page. Raises `FileNotFoundError` if there is no folder.
    """
    run = read_run(Path(workdir))
    page = templates().get_template("page.html.jinja").render(**describe(run, main))
    path = run.path / "report.html"
    write_atomic(path, page)
    return path


def templates() -> Any:
    """The environment in which pages are rendered: all text is escaped, and what is missing is an error."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    found = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    found.filters |= {"show": metrics.show, "ratio": metrics.show_ratio, "words": metrics.words, "uri": draw.data_uri, "upper": _upper}
    return found


def describe(run: Run, main: str | None = None) -> dict[str, Any]:
    """All that the template shows."""
    final = metrics.read_metrics(run.results)
    # A run that is still going or was stopped is judged by what it logged last.
    logged = {} if final else {key: list(curve.values())[-1] for key, curve in run.history.items()}
    rows = final or [m for m in metrics.read_metrics(logged) if m.split != "train"]
    best = _main(run, rows, main)
    shown = list(_artifacts(run))  # it may find problems
    return {
        "name": run.name,
        "facts": _facts(run),
        "headline": metrics.headline(best) if best else "",
        "final": bool(final),
        "tiles": [_tile(m) for m in rows if best and (m.split, m.name, m.depth) == (best.split, best.name, best.depth)][:4],
        "step": _plain("step", run.results.get("step", "")) if final else "",
        "tables": [_metrics_table(rows, split) for split in dict.fromkeys(m.split for m in rows)],
        "curves": _curves(run),
        "artifacts": [a for a in shown if a["split"] != "data"],
        "first_split": next((a["split"] for a in shown), ""),
        "data": [a for a in shown if a["split"] == "data"],
        **_other_numbers(run),
        "config": as_yaml(run.config) if run.config else "",
        "environment": run.environment,
        "command": _find(run.environment, "command", "argv"),
        "problems": run.problems,
    }


def _main(run: Run, rows: list[metrics.Metric], main: str | None) -> metrics.Metric | None:
    """The headline's metric: the one asked for, else the one that checkpoints are kept by, else the best known one."""
    if main is not None:
        found = metrics.main_metric(rows, main)
        if found is None:
            run.problems.append(f"results.json has no {main}, the metric asked for as headline.")
        return found
    checkpoint = run.config.get("checkpoint")
    kept = checkpoint.get("best") if isinstance(checkpoint, dict) else None
    keys = ["test/" + kept.partition("/")[2], kept] if isinstance(kept, str) else []
    found = [metric for key in keys if (metric := metrics.main_metric(rows, key)) and math.isfinite(metric.value)]
    return found[0] if found else metrics.main_metric(rows)


def _find(flat: dict[str, str], *names: str) -> str:
    """The first entry whose whole key, or else its last component, is one of `names`."""
    by_last = {key.rsplit("/", 1)[-1]: value for key, value in reversed(flat.items())}
    return next((source[name] for name in names for source in (flat, by_last) if name in source), "")


def _facts(run: Run) -> list[tuple[str, str]]:
    """What stands under the title."""
    env = run.environment
    config = str(run.config.get("name") or "") or _find(env, "config", "config_name")
    if not config and (match := re.search(r"--config[= ](\S+)", _find(env, "command", "argv"))):
        config = match[1]
    done, steps = run.last_step, run.config.get("steps")
    stood = run.results.get("step")
    done = int(stood) if done is None and isinstance(stood, float) and math.isfinite(stood) else done
    progress = "" if done is None else f"{done:,} of {steps:,}" if isinstance(steps, int) else f"{done:,}"
    times = (t for key in ("time/total_s", "time/train_s") if isinstance(t := run.results.get(key), float))
    facts = {
        "started": _find(env, "started", "start_time", "start", "date", "time").replace("T", " ")[:19],
        "config": config,
        "seed": str(run.config.get("seed", "")),
        "last step": progress,
        "commit": _find(env, "commit", "git_commit")[:12] + (" with changes" if _find(env, "git_changes", "dirty") == "True" else ""),
        "devices": _find(env, "devices", "device", "device_kind", "backend"),
        "time": metrics.show_seconds(next(times, run.seconds)).replace("–", ""),
    }
    return [(name, value) for name, value in facts.items() if value]


def _tile(metric: metrics.Metric) -> dict[str, Any]:
    """A metric beside its baselines, as bars on one scale."""
    values = {"this run": metric.value}
    values |= {b: metric.baselines[b] for b in metrics.baseline_columns([metric]) if b not in metrics.SPREAD}
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    top = max((abs(v) for v in values.values()), default=0) or 1
    return {"metric": metric, "bars": [(name, value, 100 * max(value, 0) / top) for name, value in values.items()]}


def _metrics_table(rows: list[metrics.Metric], split: str) -> dict[str, Any]:
    rows = [m for m in rows if m.split == split]
    groups: dict[str, list[metrics.Metric]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    # Breakdowns, such as a group per language, are folded where they would hide what they break down.
    deep = {name for name in groups if name.count("/") > 1}
    deep = deep if len(deep) > 3 and len(deep) < len(groups) else set()
    shown = {name: found for name, found in groups.items() if name not in deep}
    folded = {name: found for name, found in groups.items() if name in deep}
    columns = metrics.baseline_columns(rows)
    # The usual baselines keep their columns when they are missing, so that the missing shows.
    columns = [b for b in metrics.USUAL if b not in columns] + columns
    columns = sorted(columns, key=lambda b: (*metrics.BASELINES, b).index(b))
    return {"split": split, "columns": columns, "tables": [t for t in (shown, folded) if t]}


def _other_numbers(run: Run) -> dict[str, list[tuple[str, str]]]:
    """What results.json holds besides metrics of a split: counts of the data, timings, and others."""
    found: dict[str, list[tuple[str, str]]] = {"counts": [], "timings": [], "others": []}
    for key in sorted(run.results, key=metrics.natural):
        value = run.results[key]
        if key == "step" or metrics.is_metric(key, value):
            continue
        counts, timings = key.startswith(("data/", "parameters")) or "unreadable" in key, key.startswith("time/") or key.endswith("_s")
        found["counts" if counts else "timings" if timings else "others"].append((key, _plain(key, value)))
    return found


def _plain(key: str, value: Any) -> str:
    if key.endswith("_s") and isinstance(value, float):
        return metrics.show_seconds(value)
    whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
    return metrics.show(int(value) if whole else value)


def _upper(text: str) -> str:
    """A capital at the beginning, the rest as it is."""
    return text[:1].upper() + text[1:]


# Curves


def _curves(run: Run) -> dict[str, Any]:
    """The panels: what was learned, how the run went, and what was left out."""
    training, running, evaluation = _train_panels(run), _running_panels(run), _evaluation_panels(run)
    groups = {"Training": training, "Evaluation during training": evaluation, "How the run went": running}
    drawn, count = [], 0
    for title, panels in groups.items():
        panels = panels[: max(0, PANELS - count)]
        figures = [_figure(panel, f"c{count + i}") for i, panel in enumerate(panels)]
        count += len(figures)
        if figures:
            drawn.append({"title": title, "open": figures[:OPEN_PANELS], "folded": figures[OPEN_PANELS:]})
    missing = [] if evaluation or not run.history else ["No evaluation has been logged yet."]
    missing += [] if training or not run.history else ["No training loss has been logged."]
    return {"groups": drawn, "left_out": sum(map(len, groups.values())) - count, "missing": missing}


def _tells_how_it_went(key: str) -> bool:
    return key.rsplit("/", 1)[-1] in RUNNING or not key.startswith(("train/", "validation/", "test/"))


def _train_panels(run: Run) -> list[draw.Panel]:
    keys = [k for k in run.history if k.startswith("train/") and not _tells_how_it_went(k)]
    keys.sort(key=lambda k: ("loss" not in k, k.count("/"), metrics.natural(k)))
    return [draw.Panel(key, [draw.Line(key, run.history[key])]) for key in keys]


def _running_panels(run: Run) -> list[draw.Panel]:
    def order(key: str) -> tuple[Any, ...]:
        name = key.rsplit("/", 1)[-1]
        return (RUNNING.index(name) if name in RUNNING else len(RUNNING), metrics.natural(key))

    keys = sorted(filter(_tells_how_it_went, run.history), key=order)
    return [draw.Panel(key, [draw.Line(key, run.history[key])]) for key in keys]


def _evaluation_panels(run: Run) -> list[draw.Panel]:
    """Metrics that differ only by a number share a panel: r@1, r@5 and r@10 do, the median rank has its own."""
    keys = [k for k in run.history if k.startswith(("validation/", "test/"))]
    panels: dict[str, draw.Panel] = {}

    def order(key: str) -> tuple[Any, ...]:
        return "loss" not in key, key.count("/"), metrics.lower_is_better(key), metrics.backward(key), metrics.natural(key)

    for key in sorted(metrics.split_baselines(keys), key=order):
        group, _, name = key.rpartition("/")
        family = f"{group}/{re.sub('[0-9]+', '', name)}"
        panel = panels.setdefault(family, draw.Panel(key))
        if len(panel.lines) == draw.SERIES:
            panel = panels[key] = draw.Panel(key)
        panel.lines.append(draw.Line(name, run.history[key], best=_best(key, run.history[key]), chance=_chance(run, key)))
        if len(panel.lines) == 2:
            panel.title = group
    return list(panels.values())


def _best(key: str, curve: dict[int, float]) -> int | None:
    """The step of the best value, the earliest of equals."""
    finite = {step: value for step, value in curve.items() if math.isfinite(value)}
    pick = min if metrics.lower_is_better(key) else max
    return pick(finite, key=lambda step: finite[step]) if finite else None


def _chance(run: Run, key: str) -> float:
    logged = [v for v in run.history.get(f"{key}/chance", {}).values() if math.isfinite(v)]
    found = logged[-1] if logged else run.results.get(f"{key}/chance", math.nan)
    return found if isinstance(found, float) else math.nan


def _figure(panel: draw.Panel, prefix: str) -> dict[str, Any]:
    """A panel's drawing with its legend, which also says in words what the curve shows."""
    legend = []
    for i, line in enumerate(panel.lines):
        finite = [(step, v) for step, v in line.curve.items() if math.isfinite(v)]
        said = f"last {metrics.show(finite[-1][1])} at step {finite[-1][0]:,}" if finite else "no finite value"
        if len(line.curve) == 1:
            said = f"{metrics.show(finite[0][1])} at step {finite[0][0]:,}, one point so far" if finite else said
        elif line.best is not None:
            said = f"best {metrics.show(line.curve[line.best])} at step {line.best:,}, {said}"
        elif finite:
            said = f"first {metrics.show(finite[0][1])}, {said}"
        if math.isfinite(line.chance):
            said += f", chance {metrics.show(line.chance)} (dashed)"
        sign = draw.MARK_SIGNS[i % draw.SERIES]
        name = line.name if len(panel.lines) > 1 else ""
        legend.append({"sign": sign, "series": i % draw.SERIES, "name": name, "said": said})
    window = max((draw.smoothing(len(line.curve)) for line in panel.lines), default=1)
    alt = f"Curve of {panel.title} over steps. " + "; ".join(f"{entry['name']} {entry['said']}".strip() for entry in legend)
    return {"title": panel.title, "svg": draw.panel_svg(panel, prefix, alt), "legend": legend, "window": window}


# Artifacts


def _artifacts(run: Run) -> Iterable[dict[str, Any]]:
    """What the template needs of each artifact; test first, then validation, then others, data apart."""
    kinds = {kind: i for i, kind in enumerate(_DETAILS)}
    first_data = ("splits", "concepts", "attribution")

    def order(found: Found) -> tuple[Any, ...]:
        split = metrics.split_order(found.split)
        data = first_data.index(found.name) if found.name in first_data else len(first_data)
        kind = kinds[type(found.artifact)]
        return split, found.evaluator, data if found.split == "data" else 0, kind, metrics.backward(found.name), found.name

    for found in sorted(run.artifacts, key=order):
        kind = type(found.artifact).__name__.lower()
        title = metrics.words(found.name.removeprefix("gallery_"))
        where = ", ".join(filter(None, [metrics.words(found.evaluator), found.split])) if found.split != "data" else ""
        try:
            shown = drawn(found.artifact, title, where)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            run.problems.append(f"The {kind} {found.split}/{found.evaluator}/{found.name} cannot be drawn ({error}).")
            continue
        yield {"split": found.split, **shown}


def drawn(artifact: Artifact, title: str, where: str = "") -> dict[str, Any]:
    """What the template's `artifact` needs of one."""
    detail = _DETAILS[type(artifact)](artifact, f"{title} {where}".strip())
    return {"kind": type(artifact).__name__.lower(), "title": title, "where": where, "it": artifact, **detail}


def _gallery(gallery: Gallery, _: str) -> dict[str, Any]:
    rows = []
    for query, results in zip(gallery.queries, gallery.results, strict=True):
        if not all(isinstance(item.content, str | bytes) for item in (query, *results)):
            raise ValueError("an item that is neither a picture nor a text")
        rank = next((i for i, item in enumerate(results, start=1) if item.correct), None)
        judged = any(item.correct is not None for item in results)
        said = "" if not judged else f"right one at rank {rank}" if rank else f"none of these {len(results)} is right"
        rows.append({"query": query, "results": results, "said": said, "found": bool(rank), "judged": judged})
    judged = [row for row in rows if row["judged"]]
    found = sum(row["found"] for row in judged)
    most = max((len(row["results"]) for row in rows), default=0)
    said = f"{found} of {len(judged)} queries shown here have a right one among the first {most}." if judged else ""
    return {"rows": rows, "said": said}


def _sheet(sheet: Sheet, _: str) -> dict[str, Any]:
    rows = []
    for title, items in zip(sheet.titles, sheet.rows, strict=True):
        texts = [item for item in items if isinstance(item.content, str)]
        rows.append(
            {"title": title, "media": sorted((item for item in items if isinstance(item.content, bytes)), key=_is_clip), "texts": texts}
        )
    return {"rows": rows}


def _is_clip(item: Item) -> bool:
    return item.kind == "audio"


def _bars(bars: Bars, _: str) -> dict[str, Any]:
    """Bars in percent of the common scale; baselines are marks across a bar, not bars of their own."""
    if any(len(values) != len(bars.labels) for values in bars.series.values()):
        raise ValueError("series of another length than the labels")
    series = {name: [float("nan") if v is None else float(v) for v in values] for name, values in bars.series.items()}
    finite = [v for values in series.values() for v in values if math.isfinite(v)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    span = (high - low) or 1.0
    marks = [name for name in series if name in metrics.BASELINES and len(series) > 1]
    solid = [name for name in series if name not in marks]

    def place(value: float) -> dict[str, float]:
        start, end = sorted((0.0, value)) if math.isfinite(value) else (0.0, 0.0)
        return {"value": value, "left": 100 * (start - low) / span, "width": 100 * (end - start) / span, "at": 100 * (end - low) / span}

    rows = [{"label": label, "bars": {name: place(values[i]) for name, values in series.items()}} for i, label in enumerate(bars.labels)]
    return {"rows": rows, "solid": solid, "marks": marks, "long": max(map(len, map(str, bars.labels)), default=0) > LONG}


def _matrix(matrix: Matrix, title: str) -> dict[str, Any]:
    finite = [v for row in matrix.values for v in row if v is not None and math.isfinite(v)]
    size = f"{len(matrix.values)} rows by {len(matrix.values[0]) if matrix.values else 0} columns"
    scale = f"values from {metrics.show(min(finite))} (dark) to {metrics.show(max(finite))} (bright)" if finite else "no finite value"
    said = f"{size}, {scale}."
    if max(len(matrix.rows), len(matrix.columns)) > draw.LABELS:
        said += " Too many to label each."
    return {"svg": draw.matrix_svg(matrix, f"Matrix, {title}: {said}"), "said": said}


def _scatter(scatter: Scatter, title: str) -> dict[str, Any]:
    """One drawing for each way to colour the points."""
    drawings = []
    for name, of in scatter.groups.items():
        if len({len(of), len(scatter.x), len(scatter.y)}) > 1:
            raise ValueError(f"groups {name} of another length than the points")
        groups = draw.scatter_groups(of)
        said = ", ".join(f"{len(group['points'])} {group['name']}" for group in groups)
        legend = [{**group, "sign": draw.MARK_SIGNS[group["mark"]], "count": len(group["points"])} for group in groups]
        svg = draw.scatter_svg(scatter, groups, f"Points in a plane, {title}, by {name}: {said}.")
        drawings.append({"name": name, "svg": svg, "legend": legend})
    return {"drawings": drawings}


def _reliability(bins: Reliability, title: str) -> dict[str, Any]:
    drawings = []
    for name, found in bins.bins.items():
        n, confidence, right = np.array([row[2:] for row in found], float).reshape(-1, 3).T
        means = (np.average(x, weights=n) if n.any() else math.nan for x in (confidence, right, abs(confidence - right)))
        shown = [metrics.show(float(mean)) for mean in means]
        said = f"{n.sum():,.0f} examples in {len(n)} bins: mean confidence {shown[0]}, {shown[1]} are right, expected error {shown[2]}"
        drawings.append({"name": name, "svg": draw.reliability_svg(bins, name, f"Reliability, {title}, {name}: {said}."), "said": said})
    return {"drawings": drawings}


def _intervals(found: Intervals, title: str) -> dict[str, Any]:
    said = f"{len(found.labels)} values with their intervals"
    return {"svg": draw.intervals_svg(found, f"{title}: {said}, {found.xlabel}."), "said": f"{found.xlabel}."}


def _lines(found: Lines, title: str) -> dict[str, Any]:
    said = f"{found.ylabel} (up) against {found.xlabel} (across)."
    return {"svg": draw.lines_svg(found, f"{title}: {said}"), "said": said}


def _plane(plane: Plane, title: str) -> dict[str, Any]:
    said = f"{plane.ylabel} (up) against {plane.xlabel} (across{', logarithmic' if plane.log else ''})."
    return {"svg": draw.plane_svg(plane, f"{title}: {said}"), "said": said}


def _table(table: Table, _: str) -> dict[str, Any]:
    rows = [[(metrics.show(cell) if cell is not None else "", isinstance(cell, int | float)) for cell in row] for row in table.rows]
    return {"rows": rows}


_DETAILS = {
    Gallery: _gallery, Sheet: _sheet, Bars: _bars, Matrix: _matrix, Scatter: _scatter, Reliability: _reliability,
    Intervals: _intervals, Lines: _lines, Plane: _plane, Table: _table,
}  # fmt: skip


# Config


def as_yaml(value: Any, depth: int = 0) -> str:
    """Nested dicts as indented lines; everything else as JSON on one line."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    lines = []
    for key, inner in value.items():
        nested = isinstance(inner, dict) and inner
        lines.append("  " * depth + f"{key}:" + ("\n" if nested else " ") + as_yaml(inner, depth + 1))
    return "\n".join(lines)
