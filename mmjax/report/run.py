"""Reads a run folder, whatever state the run left it in.

A run may have been killed in the middle of a line, resumed, never evaluated, or still be going: whatever is missing
or unreadable becomes a sentence in `Run.problems`, never an exception.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmjax.contract import Artifact, load_artifact


@dataclass
class Found:
    """An artifact and where it was found: `artifacts/<split>/<evaluator>/<name>.json`, `artifacts/data/<name>.json`."""

    split: str
    evaluator: str
    name: str
    artifact: Artifact


@dataclass
class Run:
    """All that a run folder holds."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)  # flat, joined by "/"
    history: dict[str, dict[int, float]] = field(default_factory=dict)  # {metric: {step: value}}, steps ascending
    seconds: float = math.nan  # between the first and the last line
    results: dict[str, Any] = field(default_factory=dict)  # numbers as floats, null as NaN
    artifacts: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's."""
        return self.path.resolve().name

    @property
    def last_step(self) -> int | None:
        """The last that was logged."""
        return max((max(curve) for curve in self.history.values() if curve), default=None)


def read_run(path: Path) -> Run:
    """Reads the folder at `path`. Raises `FileNotFoundError` if there is none."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no run folder.")
    run = Run(path)
    run.config = _read_json(run, "config.json", "The settings of this run are not known")
    run.environment = flatten(_read_json(run, "environment.json", "Command, commit and machine are not known"))
    run.results = {k: number(v) for k, v in _read_json(run, "results.json", "The run has not finished its last evaluation").items()}
    _read_history(run)
    _read_artifacts(run)
    return run


def number(value: Any) -> Any:
    """JSON's numbers and null as a float; anything else as it is."""
    if value is None:
        return math.nan
    return float(value) if isinstance(value, int | float) else value


def flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    """Nested dicts as one dict of strings, `{"git": {"commit": x}}` as `{"git/commit": x}`; lists in one line."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = "" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def _read_json(run: Run, name: str, meaning: str) -> dict[str, Any]:
    try:
        found = json.loads((run.path / name).read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        run.problems.append(f"There is no {name}. {meaning}.")
        return {}
    except (ValueError, OSError) as error:
        run.problems.append(f"{name} cannot be read ({error}). {meaning}.")
        return {}
    if isinstance(found, dict):
        return found
    run.problems.append(f"{name} holds no JSON object. {meaning}.")
    return {}


def _read_history(run: Run) -> None:
    try:
        lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        run.problems.append("There is no metrics.jsonl, so there are no curves.")
        return
    broken, times, resumed, previous, history = [], [], 0, -1, {}
    for i, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            step = int(line.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            broken.append(i)
            continue
        resumed, previous = resumed + (step < previous), step
        for name, value in line.items():
            value = number(value)
            if not isinstance(value, float):
                continue
            if name == "time":
                times.append(value)
            else:
                history.setdefault(name, {})[step] = value  # after a resume the later line wins
    run.history = {name: dict(sorted(curve.items())) for name, curve in history.items()}

    run.seconds = times[-1] - times[0] if times else math.nan
    if not history:
        run.problems.append("metrics.jsonl holds no line that can be read, so there are no curves.")
    if broken == [len(lines)]:
        run.problems.append("The last line of metrics.jsonl is cut short: the run was stopped while it wrote.")
    elif broken:
        run.problems.append(f"Lines of metrics.jsonl that cannot be read and are left out: {shortened(broken)}.")
    if resumed:
        run.problems.append(f"The log goes back to an earlier step {resumed} time(s): the run was resumed.")
    for name, curve in run.history.items():
        if bad := [step for step, value in curve.items() if not math.isfinite(value)]:
            run.problems.append(f"{name} is not finite at step {shortened(bad)}.")


def _read_artifacts(run: Run) -> None:
    root = run.path / "artifacts"
    for path in sorted(root.rglob("*.json")):
        *folders, _ = path.relative_to(root).parts
        split, evaluator = folders[0] if folders else "", "/".join(folders[1:])
        try:
            run.artifacts.append(Found(split, evaluator, path.stem, load_artifact(path)))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            run.problems.append(f"{path.relative_to(run.path)} cannot be read ({type(error).__name__}: {error}).")


def shortened(items: list[Any], most: int = 8) -> str:
    """`1, 2, 3 and 40 more`."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
