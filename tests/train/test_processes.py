"""Several real processes on this machine, with CPU collectives: the same run as one process, and how it ends when one of them does."""

import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mmjax.config import ConfigError
from mmjax.train import cluster, distributed
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.cluster import Cluster, find
from mmjax.train.loop import train
from toy import toy_config

ROOT = Path(__file__).parents[2]
HEARTBEAT = 20  # seconds
STEPS = 50
# A frozen encoder that runs once, an unreadable picture, a tokenizer that is trained, statistics that are fitted, draws: all that
# processes have to do alike, or one for all of them. SGD, since Adam blows up the rounding of gradients that are zero but for it.
CHANGES = {
    "steps": STEPS,
    "data__pp": {"image": "decode", "text": 'choose("en")|lower|words_dropped(0.1)|tokens(40)|test_processes.slowly(0.015)'},
    "data__encoded": ["image"],
    "data__batch_pp": {"image": "normalise"},
    "data__modality_dropout": 0.1,
    "data__source": {"name": "toy:Toy", "broken": [3]},
    "data__max_unreadable": 0.2,
    "data__tokenizer": {"name": "bpe", "vocab": 300},
    "model__encoders__text": {"name": "subword_vectors", "width": 8, "buckets": 256},
    "optimizer": {"name": "sgd", "lr": 0.1, "schedule": "constant", "rules": [("model/image/.*", {"freeze": True}), (".*", {})]},
    "checkpoint": {"every": 10, "keep": 2},
    "mesh": {"data": 1, "fsdp": 8, "fsdp_min_size": 64},  # parameters and rows lie split over the processes
}
EVALS = {
    "retrieval": {"name": "retrieval", "every": STEPS, "baseline": None},
    "loss": {"name": "loss", "every": STEPS},
    "rows": {"name": "test_processes:Rows", "final": None},
}
CONFIG = f"""
from ml_collections import ConfigDict
from mmjax.config import parse_arg
from toy import toy_config

def get_config(arg=""):
    arg = parse_arg(arg, evals=False)
    return ConfigDict(toy_config(**{CHANGES!r}, evals={EVALS!r} if arg.evals else {{}}))
"""


def slowly(seconds):
    """An operation that takes its time, so that there is some between a signal and the last step."""
    return lambda x: time.sleep(seconds) or x


class Rows:
    """An evaluator that tells which rows of the training batches lie on the devices of this process, in $MMJAX_TEST_ROWS."""

    def run(self, fns, state, view, *, step, details):
        told = []
        for _, batch in zip(range(4), view.data.train_batches(view.mesh), strict=False):
            shards = batch["text/key"].addressable_shards
            told.append({row: int(key) for s in shards for row, key in zip(range(16)[s.index[0]], np.asarray(s.data), strict=True)})
        if "MMJAX_TEST_ROWS" in os.environ:
            Path(os.environ["MMJAX_TEST_ROWS"], f"{jax.process_index()}.json").write_text(json.dumps(told))
        yield "batches", float(len(told))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "toy_run.py").write_text(CONFIG)
    return folder


def environment(place, processes, **more):
    """Eight devices in all; what was compiled for so many processes once is found again."""
    flags = f"--xla_force_host_platform_device_count={8 // processes}"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    cache = {"MMJAX_CACHE": str(place / f"cache_{processes}")}
    return {**inherited, **cache, "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{ROOT}/tests/train", "XLA_FLAGS": flags, **more}


def flags_of(processes, process, port):
    return [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={process}", f"--heartbeat_timeout={HEARTBEAT}"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(place, workdir, processes, which=None, root=ROOT, port=None, arguments=(), **more):
    """All processes of a run, or `which` of them."""
    port = port or free_port()
    command = [sys.executable, f"{root}/experiments/train.py", "--config", str(place / "toy_run.py"), "--workdir", str(workdir), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    env = environment(place, processes, **more)
    return [
        subprocess.Popen([*command, *flags_of(processes, i, port)], cwd=root, env=env, **pipes)
        for i in (range(processes) if which is None else which)
    ]


def ended(processes, timeout=600):
    """The outputs and exit statuses."""
    outputs: list = [None] * len(processes)

    def read(i):
        outputs[i] = processes[i].communicate()[0]

    readers = [threading.Thread(target=read, args=(i,)) for i in range(len(processes))]
    for reader in readers:
        reader.start()
    end = time.monotonic() + timeout
    for reader in readers:
        reader.join(max(end - time.monotonic(), 0))
    late = [p.pid for p in processes if p.poll() is None]
    for process in processes:
        process.kill()
    for reader in readers:
        reader.join()
    assert not late, "\n".join(outputs)
    return outputs, [p.returncode for p in processes]


def wait_for_step(workdir, step, processes):
    """Until the run has logged `step`."""
    for _ in range(3_600):
        path = workdir / "metrics.jsonl"
        if path.exists() and any(json.loads(line)["step"] >= step for line in path.read_text().splitlines() if line.endswith("}")):
            return
        assert all(p.poll() is None for p in processes), "\n".join(ended(processes, 20)[0])
        time.sleep(0.05)
    raise AssertionError("the run got nowhere")


def latest(workdir):
    return Checkpoints(workdir / "checkpoints", read_only=True).latest


def parameters(workdir):
    """Every array of the newest checkpoint, whatever devices it was of."""
    import orbax.checkpoint as ocp

    found, reader = [], ocp.PyTreeCheckpointer()
    for item in ("params", "fitted"):
        folder = workdir / "checkpoints" / f"step_{latest(workdir)}" / item
        whole = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(folder).item_metadata.tree)
        found += jax.tree.leaves(reader.restore(folder, restore_args=whole))
    return found


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


@pytest.fixture(scope="module")
def alone(place):
    """One process, eight devices, never interrupted."""
    train(toy_config(**CHANGES, evals=EVALS), place / "alone")
    return place / "alone"


@pytest.fixture(scope="module")
def together(place):
    """Two processes of four devices each, never interrupted."""
    workdir, rows = place / "together", place / "rows"
    rows.mkdir()
    done = launched(place, "train.py", f"--config={place}/toy_run.py:evals", f"--workdir={workdir}", MMJAX_TEST_ROWS=str(rows))
    (workdir / "output.txt").write_text(done.stdout)
    return workdir


def launched(place, script, *arguments, **more):
    """By `launch.py`, in two processes."""
    command = [sys.executable, "experiments/launch.py", "--processes=2", "--devices=4", "--", f"experiments/{script}", *arguments]
    env = environment(place, 2, XLA_FLAGS="", **more)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_two_processes_train_and_measure_what_one_does(alone, together):
    """At the first step but for rounding in how sums are put together; from there on that grows a little."""
    one, two = losses(alone), losses(together)
    assert one.keys() == two.keys() == set(range(1, STEPS + 1))
    assert two[1] == pytest.approx(one[1], rel=1e-6)
    assert two == pytest.approx(one, rel=1e-4) and two[STEPS] < 0.9 * two[1]
    for a, b in zip(parameters(alone), parameters(together), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)
    found, wanted = (json.loads((folder / "results.json").read_text()) for folder in (together, alone))
    assert found["data/train/unreadable"] == found["data/test/unreadable"] == 1, "each has read a half of them"
    for results in (found, wanted):
        assert all(results.pop(name) > 0 for name in list(results) if name.startswith("time/"))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_processes_read_rows_without_overlap_or_loss(place, alone, together):
    """All four batches of an epoch; together they are the batches of a single process."""
    own = [json.loads((place / "rows" / f"{process}.json").read_text()) for process in (0, 1)]
    readable, seen = set(range(64)) - {3}, []
    for batch in range(4):
        first, second = (set(one[batch]) for one in own)
        assert len(first) == len(second) == 8 and not first & second
        seen += [key for one in own for key in one[batch].values()]
    assert set(seen) == readable and len(seen) == 64  # the unreadable one's place is taken by the next


def test_one_process_writes_and_all_of_them_are_told_apart(together):
    told = (together / "output.txt").read_text()
    assert told.count("Report: ") == told.count(" parameters (image ") == 1 and "\n[0] Results: " in told
    assert not re.search(r"^\[1\] .*(step \d|retrieval)", told, re.MULTILINE)
    assert json.loads((together / "environment.json").read_text())["processes"] == 2
    assert (together / "report.html").exists() and (together / "tokenizer.json").exists()


def test_two_processes_evaluate_a_checkpoint_again(place, together):
    before = json.loads((together / "results.json").read_text())
    (together / "results.json").unlink()
    told = launched(place, "evaluate.py", f"--workdir={together}").stdout
    found = json.loads((together / "results.json").read_text())
    timed = {name for name in before if name.startswith("time/")}
    assert {k: v for k, v in found.items() if k not in timed} == {k: v for k, v in before.items() if k not in timed}
    assert told.count(f"Step {STEPS}:") == 1


def test_sigterm_at_one_process_stops_all_after_the_same_step_and_they_go_on_bit_for_bit(place, together):
    workdir = place / "interrupted"
    processes = start(place, workdir, 2, arguments=["--config.checkpoint.every=1000"])  # so what is saved is so for the signal
    wait_for_step(workdir, 4, processes)
    processes[1].send_signal(signal.SIGTERM)
    outputs, statuses = ended(processes)
    assert statuses == [143, 143], outputs
    steps = {re.search(r"Interrupted: Stopped by SIGTERM after step (\d+), which is saved", output)[1] for output in outputs}
    assert steps == {str(latest(workdir))} and 4 < latest(workdir) < STEPS, steps
    outputs, statuses = ended(start(place, workdir, 2))
    assert statuses == [0, 0] and f"resuming at step {steps.pop()}" in outputs[0], outputs
    for a, b in zip(parameters(workdir), parameters(together), strict=True):
        np.testing.assert_array_equal(a, b)


def test_of_a_killed_process_the_others_say_which_and_another_number_goes_on(place, alone):
    """Its host is gone: the supervisor is killed, and its child with it. The others end after the heartbeat's timeout."""
    workdir = place / "killed"
    processes = start(place, workdir, 4, arguments=["--config.checkpoint.every=3"])
    wait_for_step(workdir, 7, processes)
    processes[2].kill()
    begin = time.monotonic()
    outputs, statuses = ended(processes)
    assert statuses == [75, 75, -9, 75] and time.monotonic() - begin < 3 * HEARTBEAT + 15, outputs
    saved = latest(workdir)
    assert saved is not None and 3 <= saved < STEPS
    for process in (0, 1, 3):
        last = outputs[process].strip().splitlines()[-1]
        assert last.startswith("ProcessError: Process 2 of 4 was lost: killed, or cut off."), outputs[process]
        assert f"The last checkpoint is step {saved}: the same command for all processes goes on from it." in last
    train(toy_config(**{**CHANGES, "checkpoint": {"every": 3}}, evals={}), workdir)
    assert losses(workdir).keys() == set(range(1, STEPS + 1))
    for a, b in zip(parameters(workdir), parameters(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


def test_hosts_that_differ_in_code_and_config_are_found_at_the_start(place, tmp_path):
    """Process 1 is of a clone with a file that was changed, and is given another learning rate."""
    clone = tmp_path / "clone"
    for folder in ("mmjax", "experiments"):
        shutil.copytree(ROOT / folder, clone / folder)
    with open(clone / "mmjax" / "ops" / "masks.py", "a") as file:
        file.write("# a change that nobody has committed\n")
    port, workdir = free_port(), tmp_path / "run"
    first = start(place, workdir, 2, [0], port=port)
    elsewhere = f"{clone}:{ROOT}/tests:{ROOT}/tests/train"
    second = start(place, workdir, 2, [1], clone, port, ["--config.optimizer.lr=0.2"], PYTHONPATH=elsewhere)
    outputs, statuses = ended(first + second)
    assert statuses == [2, 2], outputs
    for output in outputs:
        assert re.search(r"code\.mmjax/ops/masks\.py is '\w{8}' in process 0 and '\w{8}' in process 1; ", output), output
        assert "config.optimizer.lr is 0.1 in process 0 and 0.2 in process 1" in output and "Traceback" not in output
    assert not workdir.exists(), "nothing is left behind"


def test_what_goes_wrong_in_one_process_ends_the_others_with_its_reason(place, tmp_path):
    """Process 1 does not see the folder of process 0's run: here another one, as on hosts that share no file system."""
    port = free_port()
    quick = {"MMJAX_SEEN_WITHIN": "1"}
    processes = [*start(place, tmp_path / "a", 2, [0], port=port, **quick), *start(place, tmp_path / "b", 2, [1], port=port, **quick)]
    outputs, statuses = ended(processes)
    assert statuses == [2, 2], outputs
    why = f"ConfigError: Process 1 does not see {tmp_path}/b/environment.json, which process 0 has written: --workdir has to lie on"
    assert why in outputs[1] and f"Process 1 failed, so process 0 ends: {why}" in outputs[0], outputs


def test_a_coordinator_that_never_answers(place, tmp_path):
    begin, port = time.monotonic(), free_port()
    outputs, statuses = ended(start(place, tmp_path / "run", 2, [1], port=port, arguments=["--initialization_timeout=2"]))
    assert statuses == [2] and time.monotonic() - begin < 60
    assert f"ProcessError: Process 0 did not answer at 127.0.0.1:{port} within 2 s (" in outputs[0] and "Connection refused" in outputs[0]
    assert "Was process 0 started, and what does its log say? Is 127.0.0.1 its host as seen from here?" in outputs[0]
    assert "Traceback" not in outputs[0] and len(outputs[0].splitlines()) == 1


def test_flags_of_which_a_part_is_missing(place, tmp_path):
    command = [sys.executable, "experiments/train.py", f"--config={place}/toy_run.py", f"--workdir={tmp_path}/run", "--processes=2"]
    done = subprocess.run(command, cwd=ROOT, env=environment(place, 1), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "--processes=N without --coordinator=HOST:PORT and --process=I: a run of several processes takes all three" in done.stderr


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(distributed.ProcessError, match=f"Process 0 should listen on port {port} of here, .*another run may"):
            distributed._check_free(Cluster(f"here:{port}", 2, 0))


# Who is found, without any of them.

SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_NODELIST": "gpu[007-009,12],login1",
    "SLURM_NTASKS": "7",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
}
PORT = 4242 % 4096 + 61_440  # as jax.distributed has it
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
GKE = {"TPU_WORKER_HOSTNAMES": "w-0.svc,w-1.svc", "TPU_WORKER_ID": "1"}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2"}, Cluster("a:1", 3, 2)),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, None),
        (SLURM, Cluster(f"gpu007:{PORT}", 7, 5, (1, 2))),
        ({**SLURM, "SLURM_STEP_NODELIST": "n1,n2", "JAX_COORDINATOR_PORT": "99"}, Cluster("n1:99", 7, 5, (1, 2))),
        ({**SLURM, "SLURM_STEP_NODELIST": "rack-3-node1"}, Cluster(f"rack-3-node1:{PORT}", 7, 5, (1, 2))),
        ({**SLURM, "JAX_COORDINATOR_ADDRESS": "ib0:7"}, Cluster("ib0:7", 7, 5, (1, 2))),
        ({**SLURM, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({k: v for k, v in SLURM.items() if "STEP" not in k}, None),  # in `sbatch`, without `srun`
        ({**SLURM, "PMI_SIZE": "7", "PMI_RANK": "5"}, Cluster(f"gpu007:{PORT}", 7, 5, (1, 2))),  # srun --mpi=pmi2
        ({**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": "8192.0;tcp://10.0.0.7,10.1.0.7:34911"}, Cluster("10.0.0.7:61442", 4, 3, (1, 2))),
        ({**OPEN_MPI, "PMIX_NAMESPACE": "prterun-node-a-17@1"}, Cluster("node-a:61457", 4, 3, (1, 2))),
        ({**OPEN_MPI, **SLURM, "PMIX_NAMESPACE": "prterun-a-17@1"}, Cluster("a:61457", 4, 3, (1, 2))),  # mpirun in a job of Slurm
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
        ({"PMI_SIZE": "2", "PMI_RANK": "1", "JAX_COORDINATOR_ADDRESS": "a:1"}, Cluster("a:1", 2, 1)),
        (GKE, Cluster("w-0.svc:8482", 2, 1)),
        ({**GKE, "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        (
            {**GKE, "MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2", "MEGASCALE_COORDINATOR_ADDRESS": "s0-w0:8080"},
            Cluster("s0-w0:8482", 6, 5),
        ),
    ],
)
def test_what_started_the_processes_tells_which_they_are(environ, found):
    assert find(environ) == found
    if found:
        assert find({**environ, **found.variables()}) == found, "as a child is told"


def test_processes_of_mpi_on_one_host_need_no_address():
    local = {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    assert find({**local, "PMIX_NAMESPACE": "prterun-vm-17@1"}) == Cluster("127.0.0.1:61457", 4, 3, (1, 4))
    assert find(local).coordinator.startswith("127.0.0.1:")


def test_flags_come_before_everything():
    assert find(SLURM, "h:1", 2, 0) == Cluster("h:1", 2, 0) and find(SLURM, processes=1) is None


@pytest.mark.parametrize(
    ("environ", "flags", "said"),
    [
        ({}, {"coordinator": "a:1"}, r"--coordinator=HOST:PORT without --processes=N and --process=I"),
        ({}, {"coordinator": "a:1", "processes": 2, "process": 2}, "Process 2 of 2: processes are counted from 0 to 1"),
        ({}, {"coordinator": "a", "processes": 2, "process": 0}, "--coordinator='a' should be HOST:PORT"),
        ({"JAX_NUM_PROCESSES": "2"}, {}, "JAX_NUM_PROCESSES without JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, {}, "JAX_COORDINATOR_ADDRESS without JAX_NUM_PROCESSES and JAX_PROCESS_ID"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            {},
            "JAX_NUM_PROCESSES='two' should be a whole",
        ),
        (OPEN_MPI, {}, "says not where the first one is: set JAX_COORDINATOR_ADDRESS=HOST:PORT"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, {}, "set JAX_COORDINATOR_ADDRESS, .* as launch/jobset.yaml"),
    ],
)
def test_half_of_what_is_needed_is_one_message(environ, flags, said):
    with pytest.raises(ConfigError, match=said):
        find(environ, **flags)


def test_tpu_machines_are_asked_of_the_metadata_server(monkeypatch):
    """As a TPU v4-16 of two slices would answer, and one of old with its triples; without TPUs nobody asks."""
    answers = {
        "agent-worker-number": "1",
        "worker-network-endpoints": "unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3",
        "tpu-env": "TYPE: 'v4-16'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.9.0.1'",
    }

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            key = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = key in answers and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(answers[key].encode() if known else b"")

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environ = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
    assert find(environ) is None
    monkeypatch.setattr(cluster, "has_tpu", lambda: True)
    assert find(environ) == Cluster("10.9.0.1:8482", 4, 3)
    assert find({**environ, "TPU_SKIP_MDS_QUERY": "1"}) is find({**environ, "JAX_PLATFORMS": "cpu"}) is None
    answers |= {"tpu-env": "", "worker-network-endpoints": "10.0.0.2,10.0.0.3"}
    assert find(environ) == Cluster("10.0.0.2:8482", 2, 1)
    answers |= {"worker-network-endpoints": "10.0.0.2", "agent-worker-number": "0"}
    assert find(environ) is None
    server.shutdown()
    server.server_close()
    assert find(environ) is None, "nobody answers"


@pytest.mark.parametrize(
    ("on_host", "environ", "gpus"),
    [
        ((0, 1), {}, None),  # all that there are
        ((2, 4), {}, [2]),
        ((2, 4), {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [2]),
        ((1, 2), {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, [4, 5, 6, 7]),
        ((2, 4), {"CUDA_VISIBLE_DEVICES": "0"}, None),  # bound by the scheduler
        ((2, 4), {"JAX_LOCAL_DEVICE_IDS": "7"}, None),
    ],
)
def test_processes_of_one_host_share_its_gpus(on_host, environ, gpus):
    assert Cluster("a:1", 8, 0, on_host).local_devices(environ) == gpus


# The supervisor, with children that are no training.

UNHEALTHY = "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\\n1\\n3\\nThe tasks have crashed."
LEADER = "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was preempted/died"


@pytest.mark.parametrize(
    ("child", "status", "said"),
    [
        ("sys.exit(3)", 3, None),
        (f"print({UNHEALTHY!r}.encode().decode('unicode_escape'), file=sys.stderr); os.abort()", 75, "Processes 1, 3 of 4 were lost"),
        (f"print({LEADER!r}, file=sys.stderr); os.abort()", 75, "Process 0 of 4 was lost: it ended, or h:1 cannot be reached any more."),
        ("print('RPC: /xla.RegisterTask', file=sys.stderr); os.abort()", 75, "Process 2 of 4 waited in vain: not all 4 came to h:1."),
        ("os.kill(os.getpid(), 9)", 137, "Process 2 of 4 was ended by SIGKILL. The system does that to what takes too much"),
        ("os.kill(os.getpid(), 11)", 139, "Process 2 of 4 was ended by SIGSEGV. The last checkpoint is step 20: the same command for all"),
        ("os.kill(os.getppid(), 15); time.sleep(60)", 143, None),
        ("signal.signal(15, lambda *_: sys.exit(143)); os.kill(os.getppid(), 2); time.sleep(60)", 143, None),  # Ctrl-C is SIGTERM there
        ("signal.signal(15, lambda *_: 0); [(os.kill(os.getppid(), 2), time.sleep(0.2)) for _ in 'ab']; time.sleep(60)", 143, None),
    ],
)
def test_the_supervisor_says_what_ended_its_child(child, status, said, tmp_path):
    for step in ("step_10", "step_20", "step_30.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, signal, sys, time
from mmjax.train import supervisor
from mmjax.train.cluster import Cluster
if not supervisor.is_child():
    sys.exit(supervisor.supervise(Cluster("h:1", 4, 2), {str(tmp_path)!r}))
assert "jax" not in sys.modules, "a supervisor is light"
{child}
""")
    done = subprocess.run([sys.executable, str(script)], cwd=ROOT, env=environment(tmp_path, 1), capture_output=True, text=True, timeout=30)
    assert done.returncode == status, done.stderr
    assert (said in done.stderr) if said else ("ProcessError" not in done.stderr)
    if said:
        assert done.stderr.strip().splitlines()[-1].startswith("ProcessError: ") and "step 20" in done.stderr


def test_differences_between_many_processes_are_told_shortly(monkeypatch):
    told = [{"versions": {"jax": "0.10.2"}, "config": {"a.b": {"c": 1}}} for _ in range(12)]
    told[3] = told[7] = {"versions": {"jax": "0.11.0"}, "config": {"a.b": {"c": 1, "d": [2]}}}
    monkeypatch.setattr(distributed, "gathered", lambda what, value: told)
    said = (
        r"config.a.b.d is not there in process 0, 1, 2, 4, 5 and 5 more and \[2\] in process 3, 7; "
        r"versions.jax is '0.10.2' in process 0, 1, 2, 4, 5 and 5 more and '0.11.0' in process 3, 7. Give every process the same command."
    )
    with pytest.raises(distributed.ProcessError, match=said):
        distributed.agree("begin", {})
