"""Shows what a run would read, before it is trained: examples as the model gets them, counts, duplicates, leaks, what is unreadable.

    python experiments/inspect_data.py --config configs/align_openmoji.py [--workdir OUT] [--count N]

Writes OUT/inspect.html (OUT is runs/inspect_<config> if left out) and prints the verdicts. Nothing is trained.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import _cli
from absl import flags


def progress(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """A bar while somebody watches."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total=total, description=what)


def main() -> None:
    _cli.required("config")
    from ml_collections import config_flags

    from mmjax.config import plain
    from mmjax.data.inspect import data_of, inspect, splits_of
    from mmjax.report.inspection import write_inspection

    f = flags.FLAGS
    name = Path(config_flags.get_config_filename(f["config"]).partition(":")[0]).stem
    path = Path(f.workdir or Path("runs") / f"inspect_{name}") / "inspect.html"
    data = data_of(f.config)
    found = inspect(data, f.splits or splits_of(f.config), limit=f.limit, count=f.count, draws=f.draws, progress=progress)
    write_inspection(
        path, name, facts=found.facts, verdicts=found.verdicts, sections=found.sections, config={"data": plain(f.config)["data"]}
    )
    print(f"{found.text()}\n\nPage: {path}")


if __name__ == "__main__":
    _cli.define_config()
    flags.DEFINE_string("workdir", None, "The folder of the page; runs/inspect_<config> if left out.")
    flags.DEFINE_list("splits", None, "The splits to look at; those that the config trains and evaluates on if left out.")
    flags.DEFINE_integer("limit", 10_000, "Items of a split that are read; of larger splits it is a seeded sample.", lower_bound=1)
    flags.DEFINE_integer("count", 12, "Examples of each split that are shown.", lower_bound=0)
    flags.DEFINE_integer("draws", 4, "Draws of each training example that are shown.", lower_bound=0)
    _cli.run(main)
