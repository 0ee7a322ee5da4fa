"""Says what training on up to 4,096 chips would be like: compiles the steps for TPUs that need not be there, and writes the document.

    python experiments/scaling.py --workdir runs/scaling [--out docs/scaling.md] [--only 'b16.*4096']

It needs libtpu: pip install -r requirements-tpu.txt. A program takes a minute or two on two cores, and WORKDIR keeps what was read
out of it: the same command goes on from there. Pictures stand beside the document.
"""

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
    from mmjax.study.scaling_document import CASES

    found = {}
    for i, case in enumerate(CASES):
        path = Path(F.workdir) / f"{case.name}.json"
        if not path.exists() and re.search(F.only, case.name):
            print(f"[{i + 1}/{len(CASES)}] {case.name}: ", end="", flush=True)
            found[case] = _compiled(case, path)
            print(f"{found[case]['seconds']:.0f} s", flush=True)
        elif path.exists():
            found[case] = json.loads(path.read_text())
    missing = [case.name for case in CASES if case not in found]
    if F.out and missing:
        raise UserError(f"{F.out} was not written: {len(missing)} programs are not compiled, such as {missing[0]}.")
    if F.out:
        from mmjax.study.scaling_document import document

        document(found, Path(F.out))


def _compiled(case, path: Path) -> dict:
    """What is to know of a case, and what it was made with, kept in `path`."""
    import jax

    from mmjax.contract import write_atomic
    from mmjax.train.run import environment

    begun = time.monotonic()
    found = case.compiled(_load)
    jax.clear_caches()  # what is compiled for chips that are not there is of no further use
    found |= {"seconds": time.monotonic() - begun, "environment": environment(("jax", "flax", "optax", "libtpu"))}
    write_atomic(path, json.dumps(found))
    return found


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
