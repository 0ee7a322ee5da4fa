"""The run folder: whose it is, what made it, and that nobody else is writing in it."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from mmjax.config import CheckpointError, ConfigError, differences
from mmjax.contract import write_atomic
from mmjax.ops.processes import gathered, seen

# What may differ when a run goes on: where it runs and what it writes, not what it computes. `steps` may too, to
# train for longer, though the schedule then is another one from here on.
MAY_CHANGE = (
    "mesh",
    "log",
    "evals",
    "checkpoint.every",
    "checkpoint.keep",
    "steps",
    "data.cache",
    "data.encoded_in",
    "data.threads",
    "data.prefetch",
    "data.max_unreadable",
)
PACKAGES = ("mmjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


class RunFolder:
    """`workdir` with the config of the run in it. Of several processes the first one has it; the others see what it wrote.

    Raises:
        ConfigError: the folder holds another config's run, or something that is no run; or it is not the same for all processes.
        CheckpointError: another process is training in it.
    """

    def __init__(self, workdir: Path, config: dict[str, Any]):
        self.path, self._lock = Path(workdir), None
        first, environment = jax.process_index() == 0, self.path / "environment.json"
        if first:
            self._take(config)
        written = gathered("workdir", _fingerprint(environment) if first else None)[0]
        seen(lambda: _fingerprint(environment) == written, environment)

    def _take(self, config: dict[str, Any]) -> None:
        stored = self.path / "config.json"
        if stored.exists():
            changed = differences(read_config(self.path), json.loads(json.dumps(config)))
            changed = {k: v for k, v in changed.items() if not any(k == may or k.startswith(may + ".") for may in MAY_CHANGE)}
            if changed:
                shown = "; ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in list(changed.items())[:5])
                more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
                raise ConfigError(
                    f"{self.path} holds the run of another config: {shown}{more}. Take another --workdir, or the same config."
                )
        elif self.path.is_dir() and any(p.name not in (".lock", ".cache") for p in self.path.iterdir()):
            raise ConfigError(f"{self.path} is not empty and holds no run. Take another --workdir.")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / ".lock", "w")  # noqa: SIM115 - held until `close`, or the end of the process
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(f"Another process is training in {self.path}. Wait for it, or take another --workdir.") from None
        write_atomic(stored, json.dumps(config, indent=2))
        write_atomic(self.path / "environment.json", json.dumps(environment(), indent=2))

    def close(self) -> None:
        """Lets another process go on in the folder."""
        if self._lock:
            self._lock.close()


def _fingerprint(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def read_config(workdir: Path) -> dict[str, Any]:
    """The config of the run in `workdir`."""
    path = Path(workdir) / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{workdir} holds no run: there is no {path}.") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is damaged ({error}).") from None


def environment(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """What a result depends on besides its config: command, commit, machine, and the versions of `packages`."""
    root = Path(__file__).parents[2]
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "git_commit": _git(root, "rev-parse", "HEAD"),
        "git_changes": bool(_git(root, "status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_cores": os.cpu_count(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "versions": versions(packages),
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The installed version of each package."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
