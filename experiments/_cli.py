"""What the scripts share: flags, and errors in one line."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import absl.logging
from absl import app, flags

from mmjax.config import UserError
from mmjax.train import supervisor
from mmjax.train.cluster import Cluster, find

FLAGS = flags.FLAGS
sys.path.append(os.getcwd())  # a config may name a class of the folder that the command is given in


def define_config() -> None:
    """--config FILE[:key=value,...], and --config.a.b=value for anything in it; the run's own check knows all keys."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config",
        None,
        "The run's config: FILE or FILE:key=value,... (such as :smoke). --config.optimizer.lr=3e-4 changes one value of it.",
        lock_config=False,
        accept_new_attributes=True,
    )


def define_workdir() -> None:
    """--workdir DIR."""
    flags.DEFINE_string("workdir", None, "The run's folder: checkpoints, logs, results and report. An interrupted run goes on from it.")


def define_processes() -> None:
    """--coordinator, --processes and --process, where nothing else tells of several hosts; and how long they wait for each other."""
    flags.DEFINE_string("coordinator", None, "Of several processes: HOST:PORT where process 0 listens. Slurm, MPI and TPUs tell it.")
    flags.DEFINE_integer("processes", None, "How many processes there are; 1 is alone, whatever Slurm, MPI or TPUs tell.")
    flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
    flags.DEFINE_integer("initialization_timeout", 300, "Seconds in which all processes have to be there.", lower_bound=1)
    flags.DEFINE_integer("heartbeat_timeout", 100, "Seconds after which a process that is not heard of is lost.", lower_bound=1)


def required(*names: str) -> None:
    """One line for flags that were left out."""
    missing = [f"--{name}" for name in names if getattr(FLAGS, name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given. See --help.")
    if "config" in names:
        from ml_collections import config_flags

        path = Path(config_flags.get_config_filename(FLAGS["config"]).partition(":")[0])
        if not path.exists():
            there = ", ".join(sorted(str(p) for p in path.parent.glob("*.py")) or ["none"])
            raise UserError(f"There is no config {path}. In its folder: {there}.")


def run(main: Callable[..., None], commands: Sequence[str] = (), operand: str = "", several: bool = False) -> None:
    """Runs `main` after reading the flags; a UserError is one message and exit status 2, 143 where SIGTERM ended the run.

    With `commands` the line has to name one of them, with `operand` anything, which the word describes; `main` gets it, or
    all that are there, if there may be `several`.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    absl.logging.set_verbosity(absl.logging.WARNING)  # orbax tells of every file

    def guarded(arguments: list[str]) -> None:
        try:
            expected = arguments[1:] if several else arguments[1:2] if commands or operand else []
            if operand and not expected:
                raise UserError(f"Name {operand}. See --help.")
            if commands and (not expected or expected[0] not in commands):
                raise UserError(f"The command should be one of {', '.join(commands)}, not {' '.join(expected) or 'nothing'}. See --help.")
            if surplus := arguments[1 + len(expected) :]:
                raise UserError(f"Unexpected argument {surplus[0]!r}. See --help.")
            if cluster := _cluster():
                _one_of(cluster, main, *expected)
            else:
                cache()
                main(*expected)
        except UserError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            sys.exit(_status(error))

    for name in ("config", "config_file", "workdir"):  # --help shows those that the script itself defines; these are defined here
        if name in FLAGS:
            FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])
    app.run(guarded, flags_parser=_parsed)


def _status(error: UserError) -> int:
    return supervisor.INTERRUPTED if type(error).__name__ == "Interrupted" else 2


def _cluster() -> Cluster | None:
    """The processes of which this is one, where the script knows of several."""
    if "coordinator" not in FLAGS:
        return None
    return find(os.environ, FLAGS.coordinator, FLAGS.processes, FLAGS.process)


def _one_of(cluster: Cluster, main: Callable[..., None], *arguments: str) -> None:
    """Runs `main` with the other processes, in a child of this one; what goes wrong in any of them ends all."""
    required("workdir")
    if not supervisor.is_child():
        sys.exit(supervisor.supervise(cluster, Path(FLAGS.workdir)))
    from mmjax.train import distributed

    distributed.join(cluster, FLAGS.initialization_timeout, FLAGS.heartbeat_timeout)
    cache(Path(FLAGS.workdir) / ".cache")
    status = 0
    try:
        main(*arguments)
    except UserError as error:
        status, why = _status(error), f"{type(error).__name__}: {error}"
        print(why, file=sys.stderr)
        if status != supervisor.INTERRUPTED:  # which all of them are
            distributed.fail(why, status)
    except Exception as error:
        traceback.print_exc()
        distributed.fail(f"{type(error).__name__}: {error}", 1)
    distributed.leave()
    sys.exit(status)


def _parsed(arguments: list[str]) -> list[str]:
    """The flags, or one line about what is wrong with them."""
    try:
        return FLAGS(arguments)
    except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError, UserError) as error:
        print(_short(error), file=sys.stderr)
        sys.exit(2)


def cache(folder: Path | None = None) -> None:
    """Compiled programs are kept between runs, in $MMJAX_CACHE or ~/.cache/mmjax; empty switches it off.

    Several processes have to find the same there, since they compile together: `folder`, in their run's.
    """
    import jax

    chosen = os.environ.get("MMJAX_CACHE", folder or Path.home() / ".cache" / "mmjax")
    if chosen:
        jax.config.update("jax_compilation_cache_dir", str(Path(chosen) / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _short(error: BaseException) -> str:
    """The line of a traceback that a user needs: config_flags brings whole ones."""
    if isinstance(error, KeyError):
        return f"ConfigError: the config has no block {str(error).strip(chr(39) + chr(34))} that --config... could change."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    return last if ": " in last and last.split(":")[0].endswith("Error") else f"{type(error).__name__}: {last}"


def print_headline(results: dict) -> None:
    """The test figures with their baselines, a line each; of groups only the means over them."""
    test = {k: v for k, v in results.items() if k.startswith("test") and isinstance(v, float)}
    test = {k: v for k, v in test.items() if "/by/" not in k or k.endswith("/by/mean")}
    metrics = [k for k in test if k.rpartition("/")[0] not in test]
    width = max(map(len, metrics), default=0)
    print(f"\nStep {results['step']}:")
    for name in metrics:
        beside = [f"{k.rpartition('/')[2]} {v:.3f}" for k, v in test.items() if k.rpartition("/")[0] == name]
        print(f"  {name:{width}}  {test[name]:.3f}" + (f"   ({', '.join(beside)})" if beside else ""))
