"""The supervisor of one process among several: runs it, passes signals on to it, and says what ended it.

    experiments/train.py        what a person or a scheduler starts, the supervisor: waits for its child
      experiments/train.py      meets the others and trains (`distributed.py`)

because the runtime ends a process past all Python (SIGABRT) when it has lost another one.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from mmjax.train.cluster import Cluster

SUPERVISOR = "MMJAX_SUPERVISOR"  # the process id of a child's
INTERRUPTED = 143  # exit status: asked to end, everything is saved
LOST = 75  # exit status: another process was lost, and the same command may go on. "Temporary failure" in sysexits.h


def is_child() -> bool:
    """Whether this process has a supervisor."""
    return os.environ.get(SUPERVISOR) == str(os.getppid())


def end_with_parent() -> None:
    """Has the system kill this process when its parent ends, however that does; on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def supervise(cluster: Cluster, workdir: Path) -> int:
    """Runs the command that this process was started by as a child, which finds that it is one, and returns the exit status for it."""
    environment = {**os.environ, **cluster.variables(), SUPERVISOR: str(os.getpid())}
    child = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=environment, stderr=subprocess.PIPE)
    asked: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        asked.append(number)
        child.send_signal(signal.SIGKILL if asked.count(signal.SIGINT) > 1 else signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    assert child.stderr is not None
    tail = bytearray()
    copy = threading.Thread(target=_copy, args=(child.stderr, tail), daemon=True)
    copy.start()
    status = child.wait()
    copy.join(5)  # not for longer: what the child started may hold its end open
    if status >= 0:
        return status
    if asked and -status in (signal.SIGTERM, signal.SIGKILL):
        return INTERRUPTED
    print(f"ProcessError: {_why(-status, tail.decode(errors='replace'), cluster)} {_go_on(workdir)}", file=sys.stderr, flush=True)
    return LOST if -status == signal.SIGABRT else 128 - status


def _copy(pipe: IO[bytes], tail: bytearray, most: int = 32_768) -> None:
    """Writes on what comes, and keeps its last bytes."""
    while got := os.read(pipe.fileno(), 65_536):
        tail += got
        del tail[:-most]
        sys.stderr.buffer.write(got)
        sys.stderr.buffer.flush()


def _why(number: int, tail: str, cluster: Cluster) -> str:
    """What a child that was ended by a signal says, in a sentence; of the runtime's own words, those of 0.10 to 0.12."""
    me, count = f"Process {cluster.process} of {cluster.processes}", cluster.processes
    if number != signal.SIGABRT:
        memory = " The system does that to what takes too much memory." if number == signal.SIGKILL else ""
        return f"{me} was ended by {signal.Signals(number).name}.{memory}"
    if "RegisterTask" in tail:
        return f"{me} waited in vain: not all {count} came to {cluster.coordinator}. The logs of the others say why, if they were started."
    if "Failed to send RPC to coordination service" in tail:
        return f"Process 0 of {count} was lost: it ended, or {cluster.coordinator} cannot be reached any more. Its log says why."
    if found := re.search(r"unhealthy \(stopped sending heartbeats\):\s*((?:\d+\s+)+)", tail):
        lost = [int(number) for number in found[1].split()]
        which = f"{'es' if len(lost) > 1 else ''} {', '.join(map(str, lost))} of {count} {'were' if len(lost) > 1 else 'was'} lost"
        return f"Process{which}: killed, or cut off. The log there says why, or the scheduler."
    return f"{me} was ended by the runtime, for the reason above."


def _go_on(workdir: Path) -> str:
    found = [re.fullmatch(r"step_(\d+)", path.name) for path in (Path(workdir) / "checkpoints").glob("step_*")]
    steps = [int(step[1]) for step in found if step]
    last = f"The last checkpoint is step {max(steps)}" if steps else "There is no checkpoint yet"
    return f"{last}: the same command for all processes goes on from {'it' if steps else 'the start'}."
