"""The files of `launch/`, with what they call replaced by what writes down how it was called; and the pages that name them."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from mmjax.train.cluster import Cluster, find

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("processes", "slurm", "tpu", "kubernetes")]


@pytest.fixture
def place(tmp_path):
    """A folder as a clone is, in which commands are what `command` makes them."""
    (tmp_path / "bin").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    return tmp_path


def command(place, name, script="true", folder="bin"):
    path = place / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/bash\nprintf "%s\\n" "{name}" "$@" >> "{place}/called"\n{script}\n')
    path.chmod(0o755)


def called(place):
    return (place / "called").read_text().splitlines()


def until(there):
    """Whether it is within ten seconds."""
    return any(there() or time.sleep(0.1) for _ in range(100))


def run(place, script, *arguments, **variables):
    environment = {**os.environ, "PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place), **variables}
    return subprocess.run([ROOT / "launch" / script, *arguments], cwd=place, env=environment, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(("status", "again"), [(0, False), (143, True), (75, True), (137, True), (2, False), (1, False)])
def test_a_job_of_slurm_goes_back_to_the_queue_where_that_helps(place, status, again):
    command(place, "srun", f"exit {status}")
    command(place, "squeue", 'echo "${STATE:-RUNNING}"')
    command(place, "scontrol")
    command(place, "sleep")
    environment = {**os.environ, "PATH": f"{place}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    words = ["bash", ROOT / "launch" / "slurm.sbatch", "--config", "a b.py", "--workdir", "runs/x"]
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == status, done.stderr
    trained = ["srun", "--wait=300", "python", "experiments/train.py", "--config", "a b.py", "--workdir", "runs/x"]
    asked = ["squeue", "--noheader", "--jobs=7", "--format=%T"]
    assert called(place) == trained + asked + (["scontrol", "requeue", "7", "sleep", "60"] if again else [])
    (place / "called").unlink()
    for known in ({"SLURM_RESTART_COUNT": "50"}, {"STATE": "COMPLETING"}):  # not for ever, and not if it was cancelled
        subprocess.run(words, cwd=place, env={**environment, **known}, capture_output=True, timeout=30)
        assert "scontrol" not in called(place)


def test_slices_of_tpus_are_made_used_and_given_back(place):
    """By gcloud, whose commands for the machines are run here as they would be there."""
    command(place, "gcloud", 'for last in "$@"; do true; done; [[ $last == --command=* ]] && bash -c "${last#--command=}" || true')
    command(place, "python", "echo $$; exec sleep 30", "mmjax/.venv/bin")
    named = {"TPU": "slice", "ZONE": "z1"}
    done = run(place, "tpu_vm.sh", "create", **named, TYPE="v6e-16", RUNTIME="v2", SPOT="1")
    assert done.returncode == 0, done.stderr
    made = "gcloud compute tpus tpu-vm create slice --zone=z1 --accelerator-type=v6e-16 --version=v2 --spot"
    assert " ".join(called(place)) == made
    done = run(place, "tpu_vm.sh", "train", "--config", "a b.py", "--workdir", "/mnt/x", **named)
    assert done.returncode == 0, done.stderr
    assert "--worker=all" in called(place)
    process = int((place / "mmjax.pid").read_text())
    assert until(lambda: (place / "mmjax.log").exists() and (place / "mmjax.log").read_text() == f"{process}\n"), "that of Python itself"
    assert called(place)[-6:] == ["python", "experiments/train.py", "--config", "a b.py", "--workdir", "/mnt/x"]
    assert run(place, "tpu_vm.sh", "stop", **named).returncode == 0 and "--worker=0" in called(place)

    def gone():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True

    assert until(gone)
    done = run(place, "tpu_vm.sh", "trian", **named)
    assert done.returncode == 2 and "'trian' is none of create, setup, train" in done.stderr
    assert "ZONE: is its zone" in run(place, "tpu_vm.sh", "logs", TPU="x").stderr


@pytest.mark.parametrize("script", ["slurm.sbatch", "tpu_vm.sh"])
def test_bash_understands_it(script):
    assert subprocess.run(["bash", "-n", ROOT / "launch" / script]).returncode == 0


def test_pods_of_the_jobset_find_each_other():
    """What Kubernetes makes of its `env`, which is read as a pod would."""
    jobset = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    name, host, first = jobset["metadata"]["name"], replicated["name"], jobset["spec"]["coordinator"]
    assert first["replicatedJob"] == host and job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]
    for index in range(job["parallelism"]):
        coordinator = f"{name}-{host}-0-0.{name}"
        annotations = {"batch.kubernetes.io/job-completion-index": str(index), "jobset.sigs.k8s.io/coordinator": coordinator}
        environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": str(index)}
        for entry in container["env"]:
            if "value" in entry:
                environ[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda found, known=environ: known[found[1]], entry["value"])
            else:
                key = re.fullmatch(r"metadata\.annotations\['(.+)'\]", entry["valueFrom"]["fieldRef"]["fieldPath"])
                environ[entry["name"]] = annotations[key[1]]
        assert find(environ) == Cluster("mmjax-host-0-0.mmjax:8476", job["parallelism"], index)
    assert container["ports"] == [{"containerPort": 8476}]
    assert (ROOT / container["args"][0]).exists() and (ROOT / container["args"][1].partition("=")[2]).exists()
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [1, 2]}


def test_the_image_is_made_of_files_that_there_are():
    told = (ROOT / "launch" / "Dockerfile").read_text()
    for file in re.findall(r"requirements[\w-]*\.txt", told):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_pages_name_is_there(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"(?:launch|experiments|configs)/[\w.]+\w", text):
        assert (ROOT / path).exists(), path
