"""Several processes as one run: they meet, agree on what they run, and end together.

A process that fails for a reason of its own tells the others by the store that process 0 keeps, and they end with that reason
at once. One that is killed, or whose host is gone, is missed after the heartbeat's timeout: the runtime ends the others, and
their supervisors (`supervisor.py`) say why.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from mmjax.config import UserError, differences, plain
from mmjax.ops.processes import gathered, store
from mmjax.train.cluster import Cluster
from mmjax.train.run import versions
from mmjax.train.supervisor import end_with_parent

FAILED = "mmjax/failed"  # where in the store the first process to fail says why
LET_GO = 10_000  # milliseconds that the others have to hear of it

# What is said where processes differ, and what to do about it.
REMEDIES = {
    "config": "Give every process the same command",
    "code": "Have the same files on every host",
    "versions": "Install the same packages on every host, as from requirements.txt",
    "devices": "Give every process the same number of the same devices",
    "data": "Have the same data on every host",
}


class ProcessError(UserError):
    """Several processes cannot begin as one run, or not go on."""


def join(cluster: Cluster, timeout: int, heartbeat: int) -> None:
    """Meets the other processes; before any device is used. Seconds: `timeout` to meet, `heartbeat` after which one is given up.

    Raises:
        ProcessError: process 0 does not answer, or cannot listen.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor makes a SIGTERM of it, on which the processes agree
    begin = time.monotonic()
    _check_free(cluster) if cluster.process == 0 else _check_answers(cluster, timeout)
    import jax

    jax.distributed.initialize(
        cluster.coordinator,
        cluster.processes,
        cluster.process,
        local_device_ids=cluster.local_devices(),
        cluster_detection_method="deactivate",  # `cluster.find` has
        initialization_timeout=max(int(timeout - (time.monotonic() - begin)), 1),
        heartbeat_timeout_seconds=heartbeat,
    )
    global _heartbeat
    _heartbeat = heartbeat
    threading.Thread(target=_listen, daemon=True).start()


_heartbeat = 0  # seconds
_ending = threading.Lock()  # whoever has it ends this process, and nobody else


def leave() -> None:
    """Waits for all processes to come to their end."""
    import jax

    gathered("end")
    _ending.acquire()
    jax.distributed.shutdown()


def _check_free(cluster: Cluster) -> None:
    host, _, port = cluster.coordinator.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            raise ProcessError(
                f"Process 0 should listen on port {port} of {host}, which it cannot ({error.strerror}): another run may do so. "
                "Take another port for all processes: --coordinator=HOST:PORT, or JAX_COORDINATOR_PORT."
            ) from None


def _check_answers(cluster: Cluster, timeout: float) -> None:
    host, _, port = cluster.coordinator.rpartition(":")
    end, error = time.monotonic() + timeout, None
    while (left := end - time.monotonic()) > 0:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=min(left, 10)).close()
            return
        except OSError as why:
            error = why
            time.sleep(min(1, left))
    raise ProcessError(
        f"Process 0 did not answer at {cluster.coordinator} within {timeout:g} s ({error}), so process {cluster.process} of "
        f"{cluster.processes} cannot begin. Was process 0 started, and what does its log say? Is {host} its host as seen from here? "
        "May hosts talk to each other on that port? --coordinator=HOST:PORT names another, --initialization_timeout waits longer."
    )


def _listen() -> None:
    """Ends this process when another one has failed."""
    client, process = store()
    try:
        told = json.loads(client.blocking_key_value_get(FAILED, 2**40))
    except Exception:  # at the end of the run; or process 0 is lost, which the runtime sees to
        return
    if told["process"] != process:
        _ending.acquire()
        print(f"Process {told['process']} failed, so process {process} ends: {told['why']}", file=sys.stderr)
        _exit(told["status"])


def fail(why: str, status: int) -> NoReturn:
    """Ends all processes, because this one cannot go on. What the runtime knows of a lost one is waited for."""
    client, process = store()
    if re.search(r"gloo|nccl|connection (closed|reset)|socket closed|UNAVAILABLE|heartbeat|barrier", why, re.IGNORECASE):
        print(f"Another process seems lost; it is clear within {_heartbeat} s. What was seen here: {why}", file=sys.stderr, flush=True)
        time.sleep(_heartbeat + 15)
    _ending.acquire()
    with suppress(Exception):  # somebody was first, or process 0 is gone
        client.key_value_set(FAILED, json.dumps({"process": process, "why": why, "status": status}))
    _exit(status)


def _exit(status: int) -> NoReturn:
    """Past jax's own end, which waits for processes that hang."""
    client, process = store()
    with suppress(Exception):  # some may hang, or be gone
        client.wait_at_barrier(f"{FAILED}/heard", LET_GO)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if process == 0:
        time.sleep(1)  # it keeps the store: the others first
    os._exit(status)


# Agreement.


def agree(what: str, told: Mapping[str, Any]) -> None:
    """Compares what all processes should have in common: {"config": {...}, ...}, of the names in `REMEDIES`.

    Raises:
        ProcessError: they differ; on all of them.
    """
    found = gathered(what, told)
    differing = sorted({key for other in found[1:] for key in differences(found[0], other)})
    if not differing:
        return
    shown = "; ".join(f"{key} is {_by_process([_at(one, key) for one in found])}" for key in differing[:5])
    more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
    remedy = next(text for name, text in REMEDIES.items() if any(key.split(".")[0] == name for key in differing))
    raise ProcessError(f"The processes would not run the same: {shown}{more}. {remedy}.")


def _at(told: Any, key: str) -> Any:
    """The value at a path of `differences`: names may have dots themselves."""
    if not key:
        return told
    for name in told if isinstance(told, Mapping) else ():
        if key == name or key.startswith(name + "."):
            return _at(told[name], key[len(name) + 1 :])
    return None


def _by_process(values: list[Any]) -> str:
    groups: dict[str, list[int]] = {}
    for process, value in enumerate(values):
        groups.setdefault("not there" if value is None else repr(value), []).append(process)
    shown = {value: ", ".join(map(str, who[:5])) + (f" and {len(who) - 5} more" if len(who) > 5 else "") for value, who in groups.items()}
    return " and ".join(f"{value} in process {who}" for value, who in shown.items())


def agree_to_begin(config: Any) -> None:
    """Whether all processes have the same config, code and packages; before anything else is done, and none does anything alone."""
    if store()[0] is not None:
        agree("begin", {"config": plain(config), "code": code(), "versions": versions()})


def code() -> dict[str, str]:
    """A fingerprint of each file of mmjax, and of what else has been imported that no package manager installed."""
    root = Path(__file__).parents[1]
    files = {f"mmjax/{path.relative_to(root).as_posix()}": path for path in root.rglob("*.py")}
    installed = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and path.endswith(".py") and not path.startswith((*installed, str(root))):
            files[name] = Path(path)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:8] for name, path in files.items() if path.exists()}


def agree_on_data(fingerprints: Mapping[str, Any]) -> None:
    """Whether all processes see the same data and have the same devices."""
    import jax

    devices = {"kind": jax.local_devices()[0].device_kind, "count": jax.local_device_count()}
    agree("data", {"devices": devices, "data": fingerprints})
