"""Says whether a config's training fits in the memory of a mesh of chips, and what would make it fit. The chips need not be there.

    python experiments/fit.py --config configs/clip_vit_b16.py --chip v5e --mesh data=8,fsdp=32 [--json fit.json] [--document FILE]

For TPUs (v5e, v5p, v6e) the training step is compiled ahead of time by libtpu, which needs no TPU: pip install -r requirements-tpu.txt.
For GPUs (h100, h200) it is compiled on GPUs, as many as the mesh has. Where neither is there, the answer is an estimate from
shapes, and says so. No data are read. Where training does not fit, changes of the config are compiled, too, until some do; those
are shown as flags to copy, beside the largest batch that fits as it is. The exit status is 0 where it fits, else 1.
"""

import json
import sys
from pathlib import Path

import _cli
from absl import flags

F = flags.FLAGS
WORDS = {
    "parameters": "parameters",
    "optimizer": "optimizer state",
    "average": "moving average",
    "other": "other state",
    "batches": "batches, with those made ready",
    "activations": "activations, gradients, scratch",
    "program": "program",
}


def main() -> None:
    _cli.required("config", "chip")
    import jax

    from mmjax.study.fit import Fit, largest_batch, mesh_of, suggestions
    from mmjax.train.chips import chip_of

    chip = chip_of(F.chip)
    if chip.platform == "tpu":
        jax.config.update("jax_platforms", "cpu")  # a TPU that is there may be at work
    fit = Fit(F.config, chip, mesh_of(F.mesh, F.config, chip), full=F.full, say=lambda line: print(line, file=sys.stderr, flush=True))
    asked = fit.ask()
    search = F.search if F.search is not None else not asked.fits
    found = suggestions(fit) if search and not asked.fits else []
    largest = largest_batch(fit) if search else None
    _show(fit, asked, found, largest)
    if F.document:
        _publish(fit, asked, found)
    if F.json:
        Path(F.json).write_text(json.dumps(_plain(fit, asked, found, largest), indent=2) + "\n")
    sys.exit(0 if asked.fits else 1)


def _show(fit, asked, found, largest) -> None:
    from rich.console import Console
    from rich.table import Table

    from mmjax.study.fit import ESTIMATED, flags
    from mmjax.train.chips import GIB

    gib = lambda size: f"{size / GIB:,.2f}"  # noqa: E731
    console, rows, chips = Console(highlight=False, soft_wrap=True), fit.config["data"]["batch_size"], fit.count
    mesh = ", ".join(f"{axis} {size}" for axis, size in fit.mesh.items())
    console.print(f"{chips:,} x {fit.chip.name}, mesh {mesh}; batch {rows:,}, {rows // fit.split:,} on each chip")
    if fit.how == ESTIMATED:
        console.print(f"[bold]An estimate from shapes, nothing was compiled.[/bold] {fit.why}")
    table = Table("on each chip", "GiB")
    table.columns[1].justify = "right"
    for name, size in asked.needs._asdict().items():
        if gib(size) != "0.00":
            table.add_row(WORDS[name], gib(size))
    table.add_section()
    table.add_row("peak", gib(asked.needs.peak), style="bold")
    table.add_row("may be used", gib(fit.limit))
    console.print(table)
    spare = fit.limit - asked.needs.peak
    if asked.fits:
        console.print(f"It fits, with {gib(spare)} GiB ({spare / fit.limit:.0%}) to spare.")
    else:
        console.print(f"It does not fit: {gib(-spare)} GiB too much.")
    if found:
        console.print(f"What makes it fit, any of{' (estimated)' if fit.how == ESTIMATED else ''}:")
    for tried in found:
        words = " ".join(flags(tried.changes, tried.mesh if tried.mesh != fit.mesh else {}))
        console.print(f"  {words}   ({gib(tried.needs.peak)} GiB)")
    if not found and largest and not asked.fits:
        console.print("Neither sharding nor rematerialisation nor micro-batches, nor all of them, make it fit: take more chips.")
    if largest and largest[0]:
        batch = largest[0].changes["data.batch_size"]
        console.print(f"The largest batch that fits as it is: {batch:,} ({gib(largest[0].needs.peak)} GiB); {largest[1]:,} does not.")
    elif largest:
        console.print(f"No batch fits as it is, not even the smallest that the mesh divides, {largest[1]:,}.")
    if fit.compilations:
        how = "" if fit.full or fit.chip.platform != "tpu" else ", quick where it is not close (--full: all as training compiles)"
        console.print(f"{fit.compilations} compilation{'s' if fit.compilations > 1 else ''}{how}.")


def _publish(fit, asked, found) -> None:
    """The answer, between the marks that have the config's name."""
    from ml_collections import config_flags

    from mmjax.study.document import about, fill, table
    from mmjax.study.fit import flags
    from mmjax.train.chips import GIB
    from mmjax.train.run import environment

    packages = ("jax", "flax", "optax", "libtpu")
    sizes = [f"{size / GIB:,.2f}" for size in (asked.needs.peak, fit.limit)]
    mesh, rows = ", ".join(f"{axis} {size}" for axis, size in fit.mesh.items() if size > 1), fit.config["data"]["batch_size"]
    line = [f"{fit.count} x {fit.chip.name}", mesh, f"{rows:,}", fit.how, *sizes, "yes" if asked.fits else "no"]
    text = table(["chips", "mesh", "batch", "how", "peak, GiB", "may be used, GiB", "fits"], [line], left=4)
    for tried in found:
        text += f"\n- `{' '.join(flags(tried.changes, tried.mesh if tried.mesh != fit.mesh else {}))}` makes it fit.\n"
    name = Path(config_flags.get_config_filename(F["config"]).partition(":")[0]).stem
    fill(F.document, about([environment(packages)], packages) + f"\n{text}", name)


def _plain(fit, asked, found, largest) -> dict:
    from mmjax.study.fit import flags

    def needs(tried) -> dict:
        return {"bytes": {**tried.needs._asdict(), "peak": tried.needs.peak}, "fits": tried.fits}

    return {
        "chip": fit.chip.name,
        "mesh": fit.mesh,
        "batch_size": fit.config["data"]["batch_size"],
        "how": fit.how,
        "limit": fit.limit,
        **needs(asked),
        "suggestions": [{"flags": flags(t.changes, t.mesh if t.mesh != fit.mesh else {}), "mesh": t.mesh, **needs(t)} for t in found],
        "largest_batch": largest and largest[0] and {"batch_size": largest[0].changes["data.batch_size"], **needs(largest[0])},
        "compilations": fit.compilations,
    }


if __name__ == "__main__":
    _cli.define_config()
    flags.DEFINE_string("chip", None, "v5e, v5p, v6e, h100 or h200.")
    flags.DEFINE_string("mesh", None, "axis=size,... as config.mesh has them, which is taken if this is left out; -1 there is one host.")
    flags.DEFINE_boolean("search", None, "Looks for the largest batch also where training fits; --nosearch for nothing at all.")
    flags.DEFINE_boolean("full", False, "For TPUs: compiles everything exactly as training does, in several times the time.")
    flags.DEFINE_string("document", None, "A Markdown file: the answer replaces what stands between the marks of the config's name.")
    flags.DEFINE_string("json", None, "Writes the answer to this file, too.")
    _cli.run(main)
