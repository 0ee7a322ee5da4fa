"""What a comparison found: each method's score with its interval, paired tests, ranks, cost, and what noise and gaps do.

Made from the finished units of `compare.py` alone, so it can be made again at any time. Nothing in it depends on how
long anything took: two identical comparisons give identical tables.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmjax.config import DataError
from mmjax.contract import Artifact, Intervals, Lines, Matrix, Plane, Table
from mmjax.ops.robustness import effective_robustness, relative_robustness
from mmjax.study.compare import BASE, Plan
from mmjax.study.document import table
from mmjax.study.statistics import critical_difference, holm, interval, mean_ranks, sign_flip, smallest_p

SINGLE = "best single modality"
LATE = ("late_average", "decision")  # which of them stands for late fusion: the first that there is
ROBUST = ", robustness"
Results = Mapping[str, Sequence[Mapping[str, Any]]]


class Line(NamedTuple):
    """A method: its score in every block (mean over seeds), and what else is told of it."""

    name: str
    scores: dict[str, float]  # by block
    seeds: float  # standard deviation over seeds, mean over folds
    numbers: dict[str, float]  # every figure, mean over folds and seeds
    lr: list[float]
    cost: dict[str, float]


class Comparison(NamedTuple):
    """See the module."""

    plan: Plan
    lines: list[Line]  # the best first
    blocks: list[str]  # those of the methods; a modality alone has only those that have it
    single: dict[str, float]  # by block, of the modality that validation data chose in each fold
    chosen: list[str]  # that modality, by fold
    failed: list[tuple[str, int, str]]  # row, fold, why
    missing: list[str]  # rows without all folds as yet
    data: str = ""  # what the source says of itself
    against: Mapping[str, Mapping[str, tuple[float, float, float]]] = {}  # see `_tests`
    ranks: tuple[dict[str, float], float] = ({}, float("nan"))  # see `_ranks`


def compared(plan: Plan, results: Results) -> Comparison:
    """Puts the results together.

    Raises:
        DataError: no method is finished in all folds, or `<score>/by/` names no blocks.
    """
    failed = [(row, unit["fold"], unit["error"]) for row, units in results.items() for unit in units if unit["error"]]
    whole = {row: units for row, units in results.items() if len(units) == len(plan.folds) and not any(u["error"] for u in units)}
    lines = [_line(plan, row, units) for row, units in whole.items()]
    if not lines:
        raise DataError(
            "No method is finished in all folds." + (f" The first that failed: {failed[0][0]}, {failed[0][2]}" if failed else "")
        )
    first = max(lines, key=lambda line: len(line.scores))
    blocks = sorted(first.scores, key=_natural)
    for line in lines:
        if not (set(line.scores) <= set(blocks) if line.name.startswith("only_") else set(line.scores) == set(blocks)):
            raise DataError(f"{line.name} was tested on other blocks ({plan.by}) than {first.name}: the data have changed in between.")
    chosen, single = _best_single(plan, whole)
    data = next((unit["data"] for units in whole.values() for unit in units if unit.get("data")), "")
    unfinished = [row.name for row in plan.rows if row.name not in whole and row.name not in {name for name, _, _ in failed}]
    found = Comparison(plan, sorted(lines, key=lambda x: (-_mean(x), x.name)), blocks, single, chosen, failed, unfinished, data)
    return found._replace(against=_tests(found), ranks=_ranks(found))


def _mean(line: Line) -> float:
    return float(np.mean(list(line.scores.values())))


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (0, name)


def _line(plan: Plan, row: str, units: Sequence[Mapping[str, Any]]) -> Line:
    runs = [run for unit in units for run in unit["runs"]]
    names = [name for name in runs[0] if all(name in run for run in runs)]
    seeds = [float(np.std([run[plan.score] for run in unit["runs"]], ddof=1)) if len(unit["runs"]) > 1 else float("nan") for unit in units]
    cost = {name: float(np.mean([unit["cost"][name] for unit in units])) for name in units[0]["cost"]}
    numbers = {name: float(np.mean([run[name] for run in runs])) for name in names}
    return Line(row, _scores(plan, row, units), float(np.mean(seeds)), numbers, [unit["lr"] for unit in units], cost)


def _scores(plan: Plan, row: str, units: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """{block: the score in it, mean over seeds}; a block is tested in one fold, or its folds are averaged."""
    begin, found = f"{plan.score}/by/", {}
    for unit in units:
        for name in unit["runs"][0]:
            block = name.removeprefix(begin)
            if name.startswith(begin) and "/" not in block and block != "mean":
                found.setdefault(block, []).append(float(np.mean([run[name] for run in unit["runs"]])))
    if not found:
        raise DataError(f"{row}: there is no {begin}...: give the evaluator of {plan.score!r} by={plan.by!r}.")
    return {block: float(np.mean(values)) for block, values in found.items()}


def _best_single(plan: Plan, whole: Results) -> tuple[list[str], dict[str, float]]:
    """In every fold the modality that is best on its validation data, and what it reaches on test data."""
    alone = {row: units for row, units in whole.items() if row.startswith("only_")}
    if not alone:
        return [], {}
    chosen, found = [], {}
    for fold in range(len(plan.folds)):
        at = {row: next(u for u in units if u["fold"] == fold) for row, units in alone.items()}
        best = max(sorted(at), key=lambda row: np.mean([run[plan.select] for run in at[row]["runs"]]))
        chosen.append(best.removeprefix("only_"))
        for block, score in _scores(plan, best, [at[best]]).items():
            found.setdefault(block, []).append(score)
    return chosen, {block: float(np.mean(values)) for block, values in found.items()}


def _tests(c: Comparison) -> dict[str, dict[str, tuple[float, float, float]]]:
    """{against: {method: (mean difference, half-width of its interval, p corrected by Holm)}}, paired over blocks."""
    base = next((line.scores for line in c.lines if line.name == BASE), None)
    found = {}
    for name, other in ((BASE, base), (SINGLE, c.single)):
        if not other:
            continue
        of = [line for line in c.lines if line.name != name and not (name == SINGLE and line.name.startswith("only_"))]
        d = {line.name: np.array([line.scores[b] - other[b] for b in c.blocks if b in line.scores and b in other]) for line in of}
        p = holm({method: sign_flip(x) for method, x in d.items()})
        found[name] = {method: (*interval(x), p[method]) for method, x in d.items()}
    return found


def _ranks(c: Comparison) -> tuple[dict[str, float], float]:
    """Each method's mean rank over the blocks of all, and the difference of two that Nemenyi's test calls one."""
    shared = _shared(c)
    scores = np.array([[line.scores[b] for line in c.lines] for b in shared]).reshape(len(shared), len(c.lines))
    critical = critical_difference(len(c.lines), len(shared)) if len(c.lines) > 1 and shared else float("nan")
    return dict(zip((line.name for line in c.lines), mean_ranks(scores).tolist(), strict=True)), critical


def _shared(c: Comparison) -> list[str]:
    """The blocks that every line was tested on."""
    return [b for b in c.blocks if all(b in line.scores for line in c.lines)]


def _rows(c: Comparison) -> tuple[list[str], list[list[Any]]]:
    """The main table, as numbers."""
    against, (rank, _) = c.against, c.ranks
    base = next((line.cost for line in c.lines if line.name == BASE), None)
    head = ["method", "score", "interval", "std over seeds", "mean rank"]
    for name in against:
        head += [f"against {name}", f"against {name}, interval", f"against {name}, p"]  # a CSV needs columns of different names
    head += ["parameters", f"FLOPs of a step, {BASE} = 1", f"memory of a step, {BASE} = 1"]
    rows = []
    for line in c.lines:
        score = interval(np.array(list(line.scores.values())))
        row = [line.name, score.mean, score.half, line.seeds, rank[line.name]]
        for found in against.values():
            row += [*found.get(line.name, (None, None, None))]
        row += [line.cost["parameters"], *(line.cost[what] / base[what] if base else None for what in ("step_flops", "peak_bytes"))]
        rows.append(row)
    return head, rows


def to_csv(c: Comparison) -> str:
    """The main table in full precision, and every other figure that all methods have, mean over folds and seeds."""
    head, rows = _rows(c)
    more = [name for name in c.lines[0].numbers if "/by/" not in name and all(name in line.numbers for line in c.lines)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, "lr", *more])
    for row, line in zip(rows, c.lines, strict=True):
        writer.writerow([*("" if x is None else x for x in row), " ".join(f"{x:g}" for x in line.lr), *(line.numbers[n] for n in more)])
    return out.getvalue()


def markdown(c: Comparison) -> str:
    """The main table, and how it is to be read."""
    _, rows = _rows(c)
    shown = []
    for row in rows:
        name, mean, half, seeds, rank, *rest = row
        cells = [f"`{name}`", f"**{mean:.3f}** ± {half:.3f}", "" if np.isnan(seeds) else f"{seeds:.3f}", f"{rank:.1f}"]
        for i in range(len(c.against)):
            difference, width, p = rest[3 * i : 3 * i + 3]
            cells += ["", ""] if difference is None else [f"{difference:+.3f} ± {width:.3f}", f"{p:.3f}"]
        parameters, *relative = rest[-3:]
        cells += [f"{parameters:,.0f}", *("" if x is None else f"{x:.2f}" for x in relative)]
        shown.append(cells)
    titles = ["method", "score ± 95 %", "std over seeds", "mean rank"]
    for name in c.against:
        titles += [f"against {name}", "p"]
    return table([*titles, "parameters", "FLOPs", "memory"], shown) + "\n" + "".join(f"- {line}\n" for line in notes(c))


def more(c: Comparison, results: Results) -> str:
    """Below the main table: what is left with modalities missing or noisy, and how long it all took."""
    found, figure = pictures(c), c.plan.score.rpartition("/")[2]
    out = []
    if isinstance(missing := found.get("missing modalities"), Matrix):
        rows = [[f"`{name}`", *(f"{x:.3f}" for x in values)] for name, values in zip(missing.rows, missing.values, strict=True)]
        out += [f"Given some of the modalities at test time, {figure}:\n", table(["method", *missing.columns], rows)]
    noisy = {name.removesuffix(ROBUST): art for name, art in found.items() if name.endswith(ROBUST) and isinstance(art, Table)}
    for name, art in noisy.items():
        rows = [[f"`{row[0]}`", *("" if x is None else f"{x:.3f}" for x in row[1:])] for row in art.rows]
        out += [f"{name}, {figure}. {art.note}\n", table(art.columns, rows)]
    took = timing(results)
    rows = [[f"`{row[0]}`", f"{row[1]:.1f}", f"{row[2]:.2f}", f"{row[3]:.0f}", row[4]] for row in took.rows]
    return "\n".join([*out, f"{took.note}", "", table(took.columns, rows)])


def notes(c: Comparison) -> list[str]:
    """What the figures are, in sentences."""
    plan, n = c.plan, len(c.blocks)
    _, critical = c.ranks
    budget = "the steps of one run" if plan.equal == "steps" else f"the floating-point operations of {BASE}'s run, in fewer or more steps"
    trials = f"{len(plan.search)} learning rates tried" if len(plan.search) > 1 else "no search"
    out = [
        f"Score: `{plan.score}`, the mean over {n} blocks ({plan.by}) of the mean over {plan.seeds} seeds. ± is half the 95 % interval of "
        f"Student's t over blocks, which says how far it holds for other blocks like these; blocks of different folds share training "
        f"data, which no interval of one cross-validation accounts for.",
        f"Differences are paired over blocks; p is of the two-sided sign-flip permutation test, corrected by Holm for the methods of its "
        f"column. With {n} blocks no p can be below {smallest_p(n):.2g} before correction. Intervals of differences are not corrected.",
        f"Mean ranks are over blocks; two that differ by less than {critical:.1f} are not told apart (Nemenyi, 95 %).",
        f"Every method had {budget} and {trials} in every fold, by `{plan.select}` and a seed of its own; it was trained at the best. "
        f"{len(plan.folds)} fold{'s' * (len(plan.folds) != 1)}.",
    ]
    out.append(f"FLOPs and memory are XLA's count for a training step, {BASE} = 1.")
    if c.chosen:
        counts = {m: c.chosen.count(m) for m in dict.fromkeys(c.chosen)}
        out.append(
            f"The best single modality is chosen in each fold by validation data: {', '.join(f'{m} ({k} ×)' for m, k in counts.items())}."
        )
    few = {line.name: len(line.scores) for line in c.lines if len(line.scores) < n}
    if few:
        counts = ", ".join(f"`{name}` on {count}" for name, count in few.items())
        out.append(
            f"Not all blocks have every modality: of the {n}, {counts}. Their scores are means over these, differences are over the "
            f"blocks that both sides have, and ranks over the {len(_shared(c))} of all."
        )
    out += [f"Data: {c.data}"] if c.data else []
    out += [f"Failed: `{row}`, fold {fold}: {why}" for row, fold, why in c.failed]
    out += [f"Not finished: {', '.join(f'`{name}`' for name in c.missing)}."] if c.missing else []
    return out


def tables(c: Comparison) -> dict[str, Table]:
    """The main table for the page."""
    head, rows = _rows(c)
    return {"methods": Table(head, rows)}


def pictures(c: Comparison) -> dict[str, Artifact]:
    """Scores and differences with their intervals, ranks, score against cost, missing modalities, noise: of what was measured."""
    names, figure, (rank, critical) = [line.name for line in c.lines], c.plan.score.rpartition("/")[2], c.ranks
    scores = [interval(np.array(list(line.scores.values()))) for line in c.lines]
    found: dict[str, Artifact] = {
        "score": Intervals(names, [x.mean for x in scores], [x.half for x in scores], f"{figure}, with its 95 % interval")
    }
    for name, of in c.against.items():
        means, halves, _ = zip(*of.values(), strict=True) if of else ((), (), ())
        found[f"against {name}"] = Intervals([*of], [*means], [*halves], f"{figure} against {name}, paired over {c.plan.by}s", 0.0)
    by_rank = sorted(rank, key=lambda name: (rank[name], name))
    said = f"mean rank over {c.plan.by}s; two bars that do not overlap differ (Nemenyi, 95 %)"
    found["mean rank"] = Intervals(by_rank, [rank[name] for name in by_rank], [critical / 2] * len(by_rank), said)
    base = next((line.cost["step_flops"] for line in c.lines if line.name == BASE), 1.0)
    cost = [line.cost["step_flops"] / base for line in c.lines]
    found["score against cost"] = Plane(names, cost, [x.mean for x in scores], f"FLOPs of a training step, {BASE} = 1", figure, log=True)
    if missing := _missing(c, figure):
        found["missing modalities"] = missing
    return found | _noise(c, figure)


def _under(c: Comparison, evaluator: str, figure: str) -> dict[str, dict[str, float]]:
    """{what: {method: value}} of the figures test/<an evaluator of this kind>/<figure>/<what>."""
    found: dict[str, dict[str, float]] = {}
    for name, node in c.plan.run["evals"].items():
        begin = f"test/{name}/{figure}/"
        if node["name"] == evaluator:
            for line in c.lines:
                for key, value in line.numbers.items():
                    if key.startswith(begin):
                        found.setdefault(key.removeprefix(begin), {})[line.name] = value
    return found


def _missing(c: Comparison, figure: str) -> Matrix | None:
    """The figure given each subset of the modalities, a row a method that takes them all."""
    subsets = {what: of for what, of in _under(c, "missing", figure).items() if "/" not in what and what != "mean"}
    every = max(subsets, key=lambda what: what.count("+"), default="")
    methods = [line.name for line in c.lines if line.name in subsets.get(every, {})]
    if not methods:
        return None
    values = [[subsets[what][m] for what in subsets] for m in methods]
    return Matrix(values, methods, [*subsets], f"{figure} of a method (rows) that is given some of the modalities (columns) at test time")


def _noise(c: Comparison, figure: str) -> dict[str, Artifact]:
    """A picture for each modality and corruption, of the methods that read it; and how robust each method is."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for what, of in _under(c, "noise", figure).items():
        *place, level = what.split("/")
        if len(place) == 2 and level.isdigit():
            for method, value in of.items():
                curves.setdefault("/".join(place), {}).setdefault(method, {})[int(level)] = value
    found: dict[str, Artifact] = {}
    for place, of in curves.items():
        lines = {method: [values[i] for i in sorted(values)] for method, values in of.items()}
        found[place.replace("/", ": ")] = Lines(lines, f"severity of {place.split('/')[1]} on {place.split('/')[0]}, 0 is clean", figure)
        rows, late_fusion = [], next((name for name in LATE if name in lines), "")
        for method, curve in lines.items():
            late = lines.get(late_fusion)
            effective = effective_robustness(np.array(curve), np.array(late)) if late else None
            rows.append([method, curve[0], curve[-1], relative_robustness(np.array(curve)), effective])
        note = f"Relative: the area under the curve. Effective: what it loses less than {late_fusion} would from the same start."
        columns = ["method", "clean", "worst", "relative robustness", "effective robustness"]
        found[f"{place.replace('/', ': ')}{ROBUST}"] = Table(columns, sorted(rows, key=lambda row: -row[3]), note)
    return found


def timing(results: Results) -> Table:
    """How long steps and units took, which is not part of what is compared: it is another on another day."""
    steps = {row: float(np.median([u.get("step_seconds") or np.nan for u in units])) for row, units in results.items()}
    base = steps.get(BASE, float("nan"))
    rows = [
        [row, 1e3 * steps[row], steps[row] / base, float(sum(u["seconds"] for u in units)), len(units)] for row, units in results.items()
    ]
    note = "Steps with the reading of their batches, the median over folds; what ran beside them on the machine counts."
    return Table(["method", "milliseconds a step", f"{BASE} = 1", "seconds", "units"], rows, note)


def as_json(c: Comparison) -> str:
    """Every block's score of every method, as JSON, for other statistics than these."""
    return json.dumps({"score": c.plan.score, "by": c.plan.by, "scores": {x.name: x.scores for x in c.lines}, SINGLE: c.single}, indent=1)
