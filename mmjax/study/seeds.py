"""One config, several seeds: means and spreads beside their baselines; and several variants of it, a line each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.contract import Intervals
from mmjax.study.document import table

Results = Sequence[Mapping[str, Any]]


def summary(results: Results, prefix: str = "test") -> list[dict[str, Any]]:
    """A row a metric: `name`, every seed's `values`, their `mean` and `std` (n - 1), and each baseline's mean in `baselines`.

    A baseline is a result whose name goes on behind the metric's: `<metric>/chance`.
    """
    names = [
        n for n, v in results[0].items() if n.startswith(prefix) and isinstance(v, int | float) and n.rpartition("/")[0] not in results[0]
    ]
    rows = []
    for name in names:
        values = [float(r[name]) for r in results]
        baselines = {n.rpartition("/")[2]: float(np.mean([r[n] for r in results])) for n in results[0] if n.rpartition("/")[0] == name}
        std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        rows.append({"name": name, "values": values, "mean": float(np.mean(values)), "std": std, "baselines": baselines})
    return rows


def markdown(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """The rows as a table."""
    baselines = list(dict.fromkeys(b for row in rows for b in row["baselines"]))
    head = ["metric", "mean ± std", *(f"seed {s}" for s in seeds), *baselines, *(["× chance"] if "chance" in baselines else [])]
    lines = []
    for row in rows:
        cells = [f"`{row['name']}`", f"**{row['mean']:.3f}** ± {row['std']:.3f}", *(f"{v:.3f}" for v in row["values"])]
        cells += [f"{row['baselines'][b]:.3f}" if b in row["baselines"] else "" for b in baselines]
        if "chance" in baselines:
            chance = row["baselines"].get("chance")
            cells.append(f"{row['mean'] / chance:.1f}" if chance else "")
        lines.append(cells)
    return table(head, lines)


def variants(found: Mapping[str, Results], metrics: Sequence[str]) -> str:
    """A line a variant: each metric's mean and standard deviation over seeds, what is trained, and the time; then the baselines."""
    rows, known = [], {}
    for name, results in found.items():
        by_name = {row["name"]: row for row in summary(results)}
        cells = [f"**{by_name[m]['mean']:.3f}** ± {by_name[m]['std']:.3f}" if m in by_name else "" for m in metrics]
        seconds = float(np.mean([r["time/train_s"] for r in results]))
        rows.append([f"`{name}`", *cells, f"{results[0]['parameters_trained']:,}", f"{seconds:.0f}"])
        for m in metrics:
            for baseline, value in by_name.get(m, {"baselines": {}})["baselines"].items():
                known.setdefault(baseline, {}).setdefault(m, []).append(value)
    for baseline, values in known.items():
        rows.append([baseline, *(f"{np.mean(values[m]):.3f}" if m in values else "" for m in metrics), "", ""])
    return table(["variant", *(f"`{m}`" for m in metrics), "trained parameters", "seconds of training"], rows)


def picture(found: Mapping[str, Results], metric: str) -> Intervals:
    """The metric of every variant, with its standard deviation over seeds, beside the strongest baseline."""
    rows = {name: next(row for row in summary(results) if row["name"] == metric) for name, results in found.items()}
    baselines = [value for row in rows.values() for value in row["baselines"].values()]
    means, stds = ([row[key] for row in rows.values()] for key in ("mean", "std"))
    label = f"{metric}, mean and standard deviation over seeds; the line is the strongest baseline"
    return Intervals([*rows], means, [0.0 if math.isnan(x) else x for x in stds], label, max(baselines, default=None))
