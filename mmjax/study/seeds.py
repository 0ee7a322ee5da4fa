"""One config, several seeds: means and spreads beside their baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.study.document import table


def summary(results: Sequence[Mapping[str, Any]], prefix: str = "test") -> list[dict[str, Any]]:
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
