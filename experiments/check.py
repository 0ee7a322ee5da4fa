"""Checks a fusion, an encoder or an objective: whether it keeps what all of them promise.

    python experiments/check.py my_pkg.idea:Idea
    python experiments/check.py concat

The class needs nothing but `tiny() -> (instance, batch)`, and may stand in any file under the current folder or on the
Python path. Runs on the CPU, with eight simulated devices. The exit status is 0 where every check passes, else 1.
"""

import os
import sys

# Before jax is imported. NPROC: with more devices than cores newer jax can starve its own collectives.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("NPROC", "16")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import _cli
from absl import flags


def main(name: str) -> None:
    from mmjax.testing.named import class_of, outcomes

    kind, cls = class_of(name)
    print(f"{cls.__module__}:{cls.__name__}, one of {kind}")
    failed = []
    for check, says, error, trace in outcomes(kind, cls):
        failed.append(bool(error))
        print(f"  {'FAILED' if error else 'ok    '}  {check:16}  {error or says}", flush=True)
        if error and flags.FLAGS.traceback:
            print(trace)
    print(f"{len(failed)} checks, {sum(failed) or 'none'} failed.")
    if any(failed):
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_bool("traceback", False, "Shows where each failed check failed.")
    _cli.run(main, operand="the class to check, as in my_pkg.idea:Idea or concat")
