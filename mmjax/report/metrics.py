"""What the names and numbers of metrics mean: baselines, direction, the table, the headline.

A metric is `<split>/<evaluator>/.../<name>`; a key with one more component behind a metric's own name is one of its
baselines: `test/retrieval/text_to_image/r@10/chance`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SPLITS = ("test", "validation", "train")  # they stand in this order, others (`test_recordings`) behind the one that they begin with
NO_SPLITS = ("data", "time")  # what a key can begin with that is no metric of a split
# The order in which baselines stand in a table, and in which a main metric is looked for.
BASELINES = ("chance", "majority", "mean", "ridge", "hog", "statistics", "log_mel")
USUAL = ("chance",)  # where it is missing, its column shows that
MAIN = ("r@10", "recall@10", "accuracy", "top1", "r@5", "r@1", "mrr", "map", "f1", "auc")
SPREAD = {"std", "stderr", "sem", "low", "high", "ci_low", "ci_high", "n", "count"}
_LOWER = re.compile(r"(^|[/_])(loss|rank|err|error|perplexity|ppl|nll|wer|cer|mae|mse|rmse|ece|brier|fid)($|[/_@])")


@dataclass
class Metric:
    """One row of the metrics table."""

    key: str
    value: float
    baselines: dict[str, float] = field(default_factory=dict)

    @property
    def split(self) -> str:
        """The first component."""
        return self.key.split("/")[0]

    @property
    def group(self) -> str:
        """What stands between split and name: `retrieval/text_to_image`."""
        return "/".join(self.key.split("/")[1:-1])

    @property
    def depth(self) -> int:
        """How far down it stands: breakdowns, such as by language, are deeper than what they break down."""
        return self.key.count("/")

    @property
    def name(self) -> str:
        """The last component."""
        return self.key.split("/")[-1]

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return lower_is_better(self.key)

    def ratio(self, baseline: str = "chance") -> float:
        """Value over baseline; NaN where there is none or it is zero."""
        base = self.baselines.get(baseline, math.nan)
        return self.value / base if base else math.nan

    def beaten_by(self, baseline: str) -> bool:
        """Whether the baseline is as good as the run or better."""
        base = self.baselines.get(baseline, math.nan)
        return baseline not in SPREAD and (base <= self.value if self.lower else base >= self.value)


def lower_is_better(key: str) -> bool:
    """Whether a smaller value is the better one, judged by the metric's name."""
    return bool(_LOWER.search(key.lower()))


def is_metric(key: str, value: Any) -> bool:
    """Whether an entry of results.json is a metric of a split: `<split>/<evaluator>/.../<name>`."""
    return "/" in key and key.split("/")[0] not in NO_SPLITS and isinstance(value, float)


def split_order(split: str) -> tuple[int, str]:
    """A sort key of splits: test, those named after it, validation, train, and others."""
    first = next((i for i, known in enumerate(SPLITS) if split == known or split.startswith(f"{known}_")), len(SPLITS))
    return first, split


def natural(text: str) -> list[Any]:
    """A sort key under which r@5 stands before r@10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", text) if part]


def backward(key: str) -> bool:
    """True for image to text, which stands behind text to image wherever both are shown."""
    return "image_to_text" in key


def split_baselines(keys: Iterable[str]) -> dict[str, list[str]]:
    """`{metric: [its baselines' names]}` of flat keys."""
    keys = list(keys)
    known = set(keys)
    metrics: dict[str, list[str]] = {key: [] for key in keys if key.rpartition("/")[0] not in known}
    for key in keys:
        parent, _, name = key.rpartition("/")
        if parent in metrics:
            metrics[parent].append(name)
        elif parent in known:  # two components deeper than a metric: a metric of its own rather than lost
            metrics[key] = []
    return metrics


def read_metrics(results: Mapping[str, Any]) -> list[Metric]:
    """The metrics of all splits in `results`, test first, baselines beside their metric."""
    keys = [key for key, value in results.items() if is_metric(key, value)]
    found = [Metric(key, results[key], {b: results[f"{key}/{b}"] for b in names}) for key, names in split_baselines(keys).items()]
    compared = {(m.split, m.group) for m in found if m.baselines}  # groups with baselines say most and stand first

    def order(metric: Metric) -> tuple[Any, ...]:
        plain = (metric.split, metric.group) not in compared
        direction = natural(metric.group.split("/")[0]), backward(metric.key), natural(metric.group)
        loss = "loss" in metric.key.split("/")
        return split_order(metric.split), plain or loss, metric.depth, *direction, metric.lower, natural(metric.name)

    return sorted(found, key=order)


def baseline_columns(metrics: Iterable[Metric]) -> list[str]:
    """All baselines' names, the usual ones first."""
    names = {name for metric in metrics for name in metric.baselines}
    return [b for b in BASELINES if b in names] + sorted(names - set(BASELINES))


def main_metric(metrics: list[Metric], main: str | None = None) -> Metric | None:
    """The metric `main`, or else the first split's best known name that has baselines."""
    if main is not None:
        return next((m for m in metrics if m.key == main), None)

    def rank(metric: Metric) -> tuple[Any, ...]:
        known = MAIN.index(metric.name) if metric.name in MAIN else len(MAIN)
        return split_order(metric.split), not metric.baselines, known, metric.depth, metric.lower, backward(metric.key)

    return min((m for m in metrics if math.isfinite(m.value)), key=rank, default=None)


def headline(metric: Metric) -> str:
    """`r@10 of retrieval, text to image, on test: 0.413, 5.2 times chance (0.080), 2.1 times ridge (0.200).`"""
    what = f"{metric.name} of {words(metric.group)}" if metric.group else metric.name
    parts = [f"{what}, on {metric.split}: {show(metric.value)}"]
    for name in baseline_columns([metric]):
        if name in SPREAD or not math.isfinite(metric.baselines[name]):
            continue
        ratio, base = metric.ratio(name), show(metric.baselines[name])
        if metric.beaten_by(name):
            parts.append(f"no better than {name} ({base})")
        elif metric.lower or not ratio > 0:
            parts.append(f"better than {name} ({base})")
        else:
            parts.append(f"{show_ratio(ratio)} {name} ({base})")
    return ", ".join(parts)


def words(path: str) -> str:
    """`retrieval/text_to_image` for a reader: `retrieval, text to image`."""
    return path.replace("_", " ").replace("/", ", ")


def show(value: Any) -> str:
    """A number in at most about four figures; a dash for what is not finite."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    size = abs(value)
    if value == int(value) and size < 1e9 and (size >= 2 or isinstance(value, int)):
        return f"{int(value):,}".replace("-", "−")
    if size and (size < 1e-3 or size >= 1e6):
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    return f"{value:,.{3 if size < 10 else 1}f}".replace("-", "−")


def show_ratio(ratio: float) -> str:
    """`5.2×`, or a dash."""
    return f"{ratio:.2f}×" if abs(ratio) < 2 else f"{ratio:,.1f}×" if math.isfinite(ratio) else "–"


def show_seconds(seconds: float) -> str:
    """`1 h 02 min`, `3 min 20 s`, `4.2 s`."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
