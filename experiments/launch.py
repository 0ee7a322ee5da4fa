"""Runs a script in several processes on this machine: to try out, without a cluster, what runs on several hosts.

    python experiments/launch.py --processes 4 -- experiments/train.py --config configs/align_openmoji.py --workdir runs/x

Every process is given the script's arguments and which one it is. With --devices=2 each has two CPU devices; else process i
takes GPU i, where there are any (one process alone uses all of them, and is no slower). Lines of output say whose they are.
When one process fails the others are ended, and the exit status is that of the first.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import _cli
from absl import flags

from mmjax.config import UserError
from mmjax.train.supervisor import end_with_parent

GRACE = 60  # seconds in which the others, when one process has failed, say why and end by themselves


def main(*command: str) -> None:
    if flags.FLAGS.processes is None:
        raise UserError("--processes must be given. See --help.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [_start(command, port, i) for i in range(flags.FLAGS.processes)]
    signal.signal(signal.SIGTERM, lambda *_: [p.terminate() for p in started])
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches all of them without this
    threads = [threading.Thread(target=_prefixed, args=(p, i), daemon=True) for i, p in enumerate(started)]
    for thread in threads:
        thread.start()
    status = _wait(started)
    for thread in threads:
        thread.join(5)
    sys.exit(status)


def _start(command: tuple[str, ...], port: int, process: int) -> subprocess.Popen:
    environment, given = dict(os.environ), flags.FLAGS
    if given.devices:
        more = f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={given.devices}"
        environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": more.strip()}
    else:
        environment.setdefault("JAX_LOCAL_DEVICE_IDS", str(process))
    which = [f"--coordinator=127.0.0.1:{port}", f"--processes={given.processes}", f"--process={process}"]
    whole, pipe, out = [sys.executable, *command, *which], subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(whole, env=environment, stdout=pipe, stderr=out, preexec_fn=end_with_parent)


def _prefixed(process: subprocess.Popen, which: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.buffer.write(f"[{which}] ".encode() + line)
        sys.stdout.buffer.flush()


def _wait(started: list[subprocess.Popen]) -> int:
    """Until all have ended: the exit status of the first that failed, after which the others do not live for long."""
    status, end = 0, float("inf")
    while any(p.poll() is None for p in started):
        time.sleep(0.1)
        if not status and (status := next((p.returncode for p in started if p.returncode), 0)):
            end = time.monotonic() + GRACE
        if time.monotonic() > end:
            for p in started:
                p.kill()
    status = status or next((p.returncode for p in started if p.returncode), 0)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    flags.DEFINE_integer("processes", None, "How many processes to run.", lower_bound=1)
    flags.DEFINE_integer("devices", None, "CPU devices of each.", lower_bound=1)
    _cli.run(main, operand="the script to run, behind --", several=True)
