"""Methods side by side: which runs a comparison is made of, and making them, by as many processes as there are.

    rows     a fusion each, `only_<m>` for each modality alone, and what the config's `rows` adds, such as a training recipe
    units    a row and a fold: a search over learning rates, by validation data alone, then the seeds at the best of them

Every unit has the same budget: the same trials, the same steps (or with `equal="flops"` the same operations). It is
written whole or not at all, to `units/<row>/fold_<n>.json`; a process takes a unit by locking a file beside it, so any
number of them, on one machine or on a shared disk, work on one folder, and whatever was killed is taken up again.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from mmjax import config as configs
from mmjax.config import ConfigError, UserError, changed, check_call, differences, nearest
from mmjax.contract import write_atomic
from mmjax.train.build import parts_of

BASE = "concat"
SEARCHED_BY = 10_000  # the seed of the search's runs, which is none of those reported
EQUAL = ("steps", "flops")


class Row(NamedTuple):
    """A line of the table: its name, and the changes to the config by dotted path."""

    name: str
    changes: Mapping[str, Any]


class Plan(NamedTuple):
    """What is compared; see `plan`."""

    run: dict[str, Any]
    options: dict[str, Any]
    rows: list[Row]
    folds: list[Mapping[str, Any]]
    seeds: int
    search: tuple[float, ...]
    select: str
    score: str
    by: str
    equal: str
    vmap: bool | None

    @property
    def fixed(self) -> dict[str, Any]:
        """What may not change in a folder that goes on."""
        return {key: getattr(self, key) for key in ("run", "options", "search", "select", "seeds", "equal")}


def _study(*, run, score, by, select, folds=({},), search=(1.0,), fusions="all", options=None, rows=None, modalities=True) -> None:
    """The keys of a comparison's config."""


def plan(config: Any, *, fusion: str | None = None, seeds: int = 5, equal: str = "steps", vmap: bool | None = None) -> Plan:
    """Checks a comparison's config.

    Its keys: `run`, the config of one run, whose fusion is replaced; `folds`, changes to it by dotted path for each fold;
    `search`, factors on its learning rate; `select`, the validation figure that chooses among them; `score`, the test
    figure that is compared, and `by`, the blocks that it is compared over: `<score>`'s evaluator must be given `by`;
    `fusions`, names or "all"; `options`, arguments for every fusion that takes them, as dict(width=64); `rows`, more
    lines, [(name, changes)], of concat where they say no fusion; `modalities`, whether each is also trained alone.

    Raises:
        ConfigError: something in it is wrong or does not go together.
    """
    config = configs.plain(config)
    check_call(_study, config, "config")
    config = {"folds": [{}], "search": [1.0], "fusions": "all", "options": {}, "rows": [], "modalities": True, **config}
    run, named = config["run"], fusion or config["fusions"]
    if "fusion" not in run.get("model", {}):
        raise ConfigError("config.run.model has no fusion: methods are compared in models that have one, as `fuser` does.")
    if equal not in EQUAL:
        raise ConfigError(f"equal={equal!r} is unknown.{nearest(equal, EQUAL)}")
    if not config["search"] or not all(isinstance(x, int | float) and x > 0 for x in config["search"]):
        raise ConfigError(f"config.search={config['search']!r} should be factors on the learning rate, as in (0.5, 1, 2).")
    for key in ("select", "score"):
        if config[key].count("/") < 2 or config[key].split("/")[1] not in (evals := run.get("evals", {})):
            raise ConfigError(
                f"config.{key}={config[key]!r} should be <split>/<evaluator>/<figure> of one of config.run.evals: {', '.join(evals)}."
            )
    if config["select"].startswith("test"):
        raise ConfigError(f"config.select={config['select']!r}: what is chosen by test data is no test of it. Take a validation figure.")
    names = configs.names("fusion") if named == "all" else [n.strip() for n in (named.split(",") if isinstance(named, str) else named)]
    rows = [Row(_called(n), {"model.fusion": _fusion(n, config["options"])}) for n in dict.fromkeys([BASE, *filter(None, names)])]
    rows += [Row(f"only_{m}", {**rows[0].changes, **alone(run, m)}) for m in modalities(run)] if config["modalities"] else []
    rows += [Row(name, {**rows[0].changes, **changes}) for name, changes in config["rows"]]
    if len(names := [row.name for row in rows]) > len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"config: two rows would be called {twice!r}: give them names of their own.")
    for fold in config["folds"]:
        parts_of(changed(run, fold, rows[0].changes))  # what is wrong with the run itself is wrong with every method
    several = {key: config[key] for key in ("run", "options", "select", "score", "by")}
    return Plan(**several, rows=rows, folds=[*config["folds"]], seeds=seeds, search=tuple(config["search"]), equal=equal, vmap=vmap)


def _fusion(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A fusion's config, with those of the options that it takes."""
    takes = inspect.signature(configs.resolve("fusion", name, "--fusion")).parameters
    return {"name": name, **{key: value for key, value in options.items() if key in takes}}


def _called(name: str) -> str:
    """How a fusion's row is called: a class outside of the tree by its own name."""
    return name.rpartition(":")[2] if ":" in name else name


def modalities(run: Mapping[str, Any]) -> list[str]:
    """The streams that a run encodes."""
    return sorted(run["model"]["encoders"])


def alone(run: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """The changes that leave one modality of a run."""

    def kept(node: Mapping[str, Any] | None) -> dict[str, Any]:
        return {m: v for m, v in (node or {}).items() if m == modality or m not in run["model"]["encoders"]}

    data: Mapping[str, Any] = run["data"]
    changes: dict[str, Any] = {f"data.{key}": kept(data[key]) for key in ("pp", "batch_pp", "balance") if data.get(key)}
    if isinstance(data.get("modality_dropout"), Mapping):
        changes["data.modality_dropout"] = kept(data["modality_dropout"])
    if data.get("encoded"):
        changes["data.encoded"] = [m for m in data["encoded"] if m == modality]
    changes |= {"model.encoders": kept(run["model"]["encoders"]), "init_from": kept(run.get("init_from"))}
    return changes


class Unit(NamedTuple):
    """A row in a fold, and where its result stands."""

    row: Row
    fold: int
    path: Path


def units(workdir: Path, plan: Plan) -> list[Unit]:
    """All of them, a fold of all rows after the other."""
    return [Unit(row, f, workdir / "units" / _file(row.name) / f"fold_{f}.json") for f in range(len(plan.folds)) for row in plan.rows]


def _file(name: str) -> str:
    """A file's name for any row's: those that differ get different ones."""
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    return safe if safe == name else f"{safe}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def begin(workdir: Path, plan: Plan, environment: Mapping[str, Any]) -> None:
    """Makes the folder, or checks that it holds the same comparison; rows and folds may be added to it.

    Raises:
        ConfigError: the folder holds another comparison, or something else.
    """
    path = workdir / "comparison.json"
    wanted = json.loads(json.dumps({"fixed": plan.fixed, "rows": {row.name: row.changes for row in plan.rows}}))
    if path.exists():
        known = json.loads(path.read_text())
        both = known["rows"].keys() & wanted["rows"]
        found = differences(known["fixed"], wanted["fixed"])
        found |= differences({name: known["rows"][name] for name in both}, {name: wanted["rows"][name] for name in both}, "rows")
        if found:
            shown = "; ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in list(found.items())[:5])
            raise ConfigError(f"{workdir} holds another comparison: {shown}. Take another --workdir, or the same settings.")
    elif workdir.is_dir() and any(workdir.iterdir()):
        raise ConfigError(f"{workdir} is not empty and holds no comparison. Take another --workdir.")
    else:
        known = {"rows": {}, "environment": environment}
    write_atomic(path, json.dumps({**known, "fixed": wanted["fixed"], "rows": {**known["rows"], **wanted["rows"]}}, indent=2))


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether this process may make the file; the lock goes with the process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield not path.exists()


def work(workdir: Path, plan: Plan, say: Callable[[str], None] = print) -> None:
    """Makes every unit that no other process has made or is making, and waits for those; failures are results, too."""
    todo, begun = [unit for unit in units(workdir, plan) if not unit.path.exists()], time.monotonic()
    left, made = todo, 0
    while left:
        for unit in left:
            with _claimed(unit.path) as mine:
                if mine:
                    found = attempt(plan, unit)
                    write_atomic(unit.path, json.dumps(found))
                    made += 1
                    if made % 8 == 0:
                        _forget()
            if mine:
                n = sum(not other.path.exists() for other in todo)
                minutes = n * (time.monotonic() - begun) / (len(todo) - n) / 60
                say(f"{unit.row.name}, fold {unit.fold}: {_told(found, plan)}; {n} of {len(todo)} left, about {minutes:.0f} min")
        if left := [unit for unit in todo if not unit.path.exists()]:
            time.sleep(1)  # others are at work; what one of them dies of is taken up here


def _told(found: Mapping[str, Any], plan: Plan) -> str:
    if found["error"]:
        return f"failed ({found['error']})"
    mean = sum(run[plan.score] for run in found["runs"]) / len(found["runs"])
    return f"{mean:.3f} at {found['lr']:g} × the learning rate, {found['seconds']:.0f} s"


def attempt(plan: Plan, unit: Unit) -> dict[str, Any]:
    """The unit's result, or why there is none."""
    begun = time.monotonic()
    try:
        found = {"error": None, **make(plan, unit)}
    except UserError as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    except Exception as error:  # somebody's fusion may raise anything; the other rows go on
        found = {
            "error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}",
            "trace": traceback.format_exc(),
        }
    return {"row": unit.row.name, "fold": unit.fold, **found, "seconds": time.monotonic() - begun}


def make(plan: Plan, unit: Unit) -> dict[str, Any]:
    """Searches, trains the seeds and measures them.

    Returns `lr`, the factor that was best, `search` {factor: validation figure} where there are several, `steps`, `cost`, `step_seconds`,
    and `runs`, the numbers of every seed by name, validation and test.
    """
    from mmjax.study.cost import cost
    from mmjax.study.side_by_side import Run, SideBySide, reads

    config = changed(plan.run, unit.row.changes, plan.folds[unit.fold])
    key = reads(config)
    side = SideBySide(config, plan.vmap, _read.get(key))
    if key not in _read:
        _read.clear()
    _read[key] = side.parts.data
    told = [text for text in side.parts.data.source("train").describe().values() if isinstance(text, str)]
    found: dict[str, Any] = {"steps": config["steps"], "data": " ".join(told)}
    if plan.equal == "flops" and unit.row.name != BASE:
        base = _step_flops(json.dumps(changed(plan.run, plan.rows[0].changes, plan.folds[unit.fold])))
        found["steps"] = max(1, round(config["steps"] * base / cost(side.parts)["step_flops"]))
    best, *others = plan.search
    search: dict[float, float] = {}
    if others:
        split, evaluator, _ = plan.select.split("/", 2)
        states = side.train([Run(SEARCHED_BY, lr) for lr in plan.search], found["steps"])
        search = {lr: side.measure(s, {evaluator: split}, details=False)[plan.select] for lr, s in zip(plan.search, states, strict=True)}
        best = max(search, key=lambda lr: (search[lr], -abs(lr - 1)))
    runs = []
    for state in side.train([Run(seed, best) for seed in range(plan.seeds)], found["steps"]):
        numbers: dict[str, float] = {}
        for which in ("split", "final"):
            splits = {name: when[which] for name, (_, when) in side.parts.evals.items() if when[which]}
            numbers |= side.measure(state, splits, details=which == "final")
        runs.append(numbers)
    searched = {f"{lr:g}": value for lr, value in search.items()}
    return {**found, "cost": side.cost, "step_seconds": side.step_seconds, "lr": best, "search": searched, "runs": runs}


@lru_cache(maxsize=1)  # every unit of a fold asks for the same
def _step_flops(config: str) -> float:
    from mmjax.study.cost import cost

    return cost(parts_of(json.loads(config)))["step_flops"]


_read: dict[str, Any] = {}  # the data of the last unit, which mostly are those of the next


def _forget() -> None:
    """Compiled programs: every unit has its own, and hundreds of units are made in one process."""
    import jax

    jax.clear_caches()


def read(workdir: Path, plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """{row: its result in every fold}, of the rows that are finished; failed ones have an `error`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for unit in units(workdir, plan):
        if unit.path.exists():
            found.setdefault(unit.row.name, []).append(json.loads(unit.path.read_text()))
    return found
