"""Whether this is one of several processes of a run, and which: from flags, or from what started them.

A single machine never needs any of it. What is looked at, the first that says something:

- flags, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, as `launch/jobset.yaml` sets them on Kubernetes;
- MPI: Open MPI's OMPI_COMM_WORLD_*, and the PMI_* of MPICH and Intel MPI;
- a step of Slurm (`srun`) of several tasks;
- TPUs on Kubernetes (GKE), and TPU virtual machines, by the metadata server.

Addresses and ports are chosen as `jax.distributed` chooses them. It is not asked itself because the supervisor of a process
(`distributed.py`) has to know, too, and because it gives a task of Slurm or MPI one GPU even where the task has a host alone.
"""

from __future__ import annotations

import importlib.util
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmjax.config import ConfigError

FLAGS = {"coordinator": "--coordinator=HOST:PORT", "processes": "--processes=N", "process": "--process=I"}
VARIABLES = {"coordinator": "JAX_COORDINATOR_ADDRESS", "processes": "JAX_NUM_PROCESSES", "process": "JAX_PROCESS_ID"}
TPU_PORT = 8482


class Cluster(NamedTuple):
    """Several processes of one run."""

    coordinator: str  # host:port, where process 0 listens
    processes: int
    process: int  # which of them this is, from 0
    on_host: tuple[int, int] = (0, 1)  # which of those on its host, and of how many

    def variables(self) -> dict[str, str]:
        """The same for a child process: what it finds first, whoever started its parent."""
        told = dict(zip(VARIABLES.values(), map(str, self[:3]), strict=True))
        return {**told, "MMJAX_ON_HOST": f"{self.on_host[0]} of {self.on_host[1]}"}

    def local_devices(self, environ: Mapping[str, str] = os.environ) -> list[int] | None:
        """Which of the GPUs that it sees are this process's, where several processes share a host; None for all of them."""
        place, count = self.on_host
        if count == 1 or "JAX_LOCAL_DEVICE_IDS" in environ:  # which JAX reads by itself
            return None
        if (seen := environ.get("CUDA_VISIBLE_DEVICES")) is None:
            return [place]
        gpus = len(seen.split(","))
        if gpus < count:  # the scheduler has bound them
            return None
        return list(range(place * gpus // count, (place + 1) * gpus // count))


def find(
    environ: Mapping[str, str] = os.environ, coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Cluster | None:
    """The processes that flags or the environment tell of; None where this process is alone, as with `processes=1`.

    Raises:
        ConfigError: what they say is half of it, or cannot be.
    """
    told = {"coordinator": coordinator, "processes": processes, "process": process}
    if processes == 1 and coordinator is None and not process:
        return None
    if any(value is not None for value in told.values()):
        return _checked(told, FLAGS)
    told = {name: environ.get(variable) for name, variable in VARIABLES.items()}
    if told["processes"] is not None or told["process"] is not None:
        found = _checked(told, VARIABLES)
        place = re.fullmatch(r"(\d+) of (\d+)", environ.get("MMJAX_ON_HOST", ""))
        return found and found._replace(on_host=(int(place[1]), int(place[2])) if place else (0, 1))
    for look in (_mpi, _slurm, _tpu_on_kubernetes, _tpu_machines):
        if (found := look(environ)) is not None:
            return found if found.processes > 1 else None
    if told["coordinator"] is not None:
        return _checked(told, VARIABLES)
    if int(environ.get("JOB_COMPLETION_INDEX") or 0) > 0 and "KUBERNETES_SERVICE_HOST" in environ:
        raise ConfigError(
            "This pod is one of several of a Kubernetes job, but nothing says how many there are and where the first one listens: "
            f"set {', '.join(VARIABLES.values())} as launch/jobset.yaml does."
        )
    return None


def _checked(told: Mapping[str, str | int | None], names: Mapping[str, str]) -> Cluster | None:
    """Three values that go together."""
    missing = [names[name] for name, value in told.items() if value is None]
    if missing:
        given = ", ".join(names[name] for name, value in told.items() if value is not None)
        raise ConfigError(f"{given} without {' and '.join(missing)}: a run of several processes takes all three, of one machine none.")
    numbers = {}
    for name in ("processes", "process"):
        try:
            numbers[name] = int(str(told[name]))
        except ValueError:
            raise ConfigError(f"{names[name].split('=')[0]}={told[name]!r} should be a whole number.") from None
    processes, process, coordinator = numbers["processes"], numbers["process"], str(told["coordinator"])
    if processes < 1 or not 0 <= process < processes:
        raise ConfigError(f"Process {process} of {processes}: processes are counted from 0 to {max(processes, 1) - 1}.")
    if not re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):\d{1,5}", coordinator):
        raise ConfigError(
            f"{names['coordinator'].split('=')[0]}={coordinator!r} should be HOST:PORT, a host that all see and a free port of it."
        )
    return Cluster(coordinator, processes, process) if processes > 1 else None


def _mpi(environ: Mapping[str, str]) -> Cluster | None:
    for size, rank, on_host, of_host in (
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ):
        srun = size == "PMI_SIZE" and environ.get("SLURM_NTASKS") == environ.get(size) and environ.get("SLURM_PROCID") == environ.get(rank)
        if size in environ and rank in environ and not srun:
            processes, process = int(environ[size]), int(environ[rank])
            place = (int(environ.get(on_host, 0)), int(environ.get(of_host, 1)))
            return Cluster(_mpi_coordinator(environ, processes, place[1]) if processes > 1 else "", processes, process, place)
    return None


def _mpi_coordinator(environ: Mapping[str, str], processes: int, of_host: int) -> str:
    """Where process 0 listens: MPI itself names no address."""
    if given := environ.get(VARIABLES["coordinator"]):
        return given
    launcher = re.fullmatch(r"prte(?:run)?-(.+)-(\d+)@\d+", environ.get("PMIX_NAMESPACE", ""))  # Open MPI 5
    uri = re.match(r"(\d+)\..*?tcp6?://(?:\[([^],]+)|([^,:]+))", environ.get("OMPI_MCA_orte_hnp_uri", ""))  # Open MPI 4
    if of_host == processes:
        return f"127.0.0.1:{_port(environ, int(launcher[2]) if launcher else os.getppid())}"
    if launcher:  # the host of mpirun, which runs the first process unless it is told otherwise
        return f"{launcher[1]}:{_port(environ, int(launcher[2]))}"
    if uri:
        return f"{f'[{uri[2]}]' if uri[2] else uri[3]}:{_port(environ, int(uri[1]) // 2**12)}"
    if {"SLURM_JOB_ID", "SLURM_JOB_NODELIST"} <= set(environ):
        return f"{_first_host(environ['SLURM_JOB_NODELIST'])}:{_port(environ, int(environ['SLURM_JOB_ID']))}"
    raise ConfigError(
        f"MPI has started {processes} processes, but says not where the first one is: set JAX_COORDINATOR_ADDRESS=HOST:PORT for all of "
        "them (mpirun -x JAX_COORDINATOR_ADDRESS, mpiexec -genv), HOST being the first host as the others see it."
    )


def _slurm(environ: Mapping[str, str]) -> Cluster | None:
    if not {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"} <= set(environ):
        return None  # `sbatch` and `salloc` without `srun` are no step: one process
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", environ["SLURM_NTASKS"]))
    address = environ.get(VARIABLES["coordinator"]) or (
        f"{_first_host(environ['SLURM_STEP_NODELIST'])}:{_port(environ, int(environ['SLURM_JOB_ID']))}"
    )
    here = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    node = min(int(environ.get("SLURM_NODEID", 0)), len(here) - 1)
    return Cluster(address, tasks, int(environ["SLURM_PROCID"]), (int(environ["SLURM_LOCALID"]), here[node]))


def _first_host(nodes: str) -> str:
    """Of Slurm's list of nodes: 'a[007-012,15],b3' begins with a007."""
    head, bracket, rest = re.fullmatch(r"([^,\[]*)(\[?)(.*)", nodes, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return head + re.split(r"[,\-\]]", rest)[0] if bracket else head


def _tasks_per_node(told: str) -> list[int]:
    """'2(x3),1' is [2, 2, 2, 1]."""
    pairs = (re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in told.split(","))
    return [int(pair[1]) for pair in pairs if pair for _ in range(int(pair[2] or 1))] or [1]


def _tpu_on_kubernetes(environ: Mapping[str, str]) -> Cluster | None:
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if not hosts or "TPU_WORKER_ID" not in environ:
        return None
    return _tpu(environ, hosts.split(","), int(environ["TPU_WORKER_ID"]), environ)


def _tpu(environ: Mapping[str, str], hosts: list[str], worker: int, slices: Mapping[str, str]) -> Cluster:
    """Of one slice, or of several that are told of by the MEGASCALE_* in `slices`."""
    first = environ.get(VARIABLES["coordinator"]) or slices.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
    if VARIABLES["coordinator"] not in environ:
        first = f"{first.split(':')[0]}:{_port(environ, None)}"
    processes = len(hosts) * int(slices.get("MEGASCALE_NUM_SLICES") or 1)
    return Cluster(first, processes, worker + int(slices.get("MEGASCALE_SLICE_ID") or 0) * len(hosts))


def _tpu_machines(environ: Mapping[str, str]) -> Cluster | None:
    """TPU virtual machines know each other by the metadata server alone."""
    elsewhere = environ.get("JAX_PLATFORMS", "tpu").split(",")[0] not in ("tpu", "")
    if elsewhere or "TPU_SKIP_MDS_QUERY" in environ or not has_tpu():
        return None
    endpoints = _metadata(environ, "worker-network-endpoints")
    worker = _metadata(environ, "agent-worker-number")
    if not endpoints or not worker:
        return None
    hosts = [part.split(":")[2] if part.count(":") == 2 else part for part in endpoints.split(",")]  # name:id:address of old
    told = dict(re.findall(r"^\s*(\w+)\s*:\s*'?([^'\n]*)'?\s*$", _metadata(environ, "tpu-env") or "", re.MULTILINE))
    return _tpu(environ, hosts, int(worker), {**told, **environ})


def has_tpu() -> bool:
    """Whether this machine has TPU chips, and the library for them."""
    return (Path("/dev/accel0").exists() or Path("/dev/vfio").exists()) and importlib.util.find_spec("libtpu") is not None


def _metadata(environ: Mapping[str, str], key: str) -> str | None:
    server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Metadata-Flavor": "Google"}), timeout=10) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None


def _port(environ: Mapping[str, str], job: int | None) -> int:
    """JAX_COORDINATOR_PORT; else one that goes with the job, in the range that systems hand out last; of TPUs always the same."""
    if given := environ.get("JAX_COORDINATOR_PORT"):
        return int(given)
    return TPU_PORT if job is None else job % 2**12 + 65_535 - 2**12 + 1
