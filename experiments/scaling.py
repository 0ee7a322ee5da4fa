"""Says what training on up to 4,096 chips would be like: compiles the steps for TPUs that need not be there, and writes the document.

    python experiments/scaling.py --workdir runs/scaling [--out docs/scaling.md] [--only 'b16.*4096']

It needs libtpu: pip install -r requirements-tpu.txt. A program takes a minute or two on two cores, and WORKDIR keeps it as text:
the same command goes on from there. Pictures stand beside the document.
"""

import gzip
import json
import os
import re
import time
from pathlib import Path

import _cli
from absl import flags

F = flags.FLAGS


def main() -> None:
    _cli.required("workdir")
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # the programs themselves are of no use here
    from mmjax.config import UserError
    from mmjax.study.scaling_plan import CASES

    for i, case in enumerate(CASES):
        path = Path(F.workdir) / f"{case.name}.json"
        if not path.exists() and re.search(F.only, case.name):
            print(f"[{i + 1}/{len(CASES)}] {case.name}: ", end="", flush=True)
            print(f"{_compiled(case, path):.0f} s", flush=True)
    if F.out:
        missing = [case.name for case in CASES if not (Path(F.workdir) / f"{case.name}.json").exists()]
        if missing:
            raise UserError(f"{F.out} was not written: {len(missing)} programs are not compiled yet, such as {missing[0]}.")
        _document(CASES)


def _compiled(case, path: Path) -> float:
    """Keeps what is to know of a case, and what it was made with; the seconds that it took."""
    import jax

    from mmjax.contract import write_atomic
    from mmjax.train.run import environment

    begun = time.monotonic()
    found = case.compiled(_load)
    jax.clear_caches()  # what is compiled for chips that are not there is of no further use
    write_atomic(path.with_suffix(".hlo.gz"), gzip.compress(found.pop("text", "").encode()))
    found |= {"seconds": time.monotonic() - begun, "environment": environment(("jax", "flax", "optax", "libtpu"))}
    write_atomic(path, json.dumps(found))
    return found["seconds"]


def _document(cases) -> None:
    from mmjax.study.collectives import schedule
    from mmjax.study.scaling import Program
    from mmjax.study.scaling_document import document
    from mmjax.train.chips import chip_of

    programs, made = {}, []
    for case in cases:
        path = Path(F.workdir) / f"{case.name}.json"
        found, text = json.loads(path.read_text()), gzip.decompress(path.with_suffix(".hlo.gz").read_bytes()).decode()
        programs[case] = Program(found, chip_of(case.chip), schedule(text, found["mesh"]) if text else [])
        made.append(found)
    document(programs, made, Path(F.out))


def _load(name: str) -> dict:
    import importlib.util

    from mmjax.config import plain

    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "configs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return plain(module.get_config())


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    _cli.define_workdir()
    flags.DEFINE_string("out", None, "The document, Markdown: it is written anew.")
    flags.DEFINE_string("only", "", "A regular expression: only programs in whose name it is found are compiled.")
    _cli.run(main)
