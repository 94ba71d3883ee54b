"""`firstlight launch`: what it writes is run here, with stand-ins for Slurm's own programs and for the kubelet."""

import json
import os
import re
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.runs import TinyRun, command, environment, make_tiny_run, wait_until
from tests.unit.cli.command import ask
from tests.unit.launch.test_node import free_port

SRUN = """\
#!/usr/bin/env python3
# Starts one task on each node, all on this machine, and ends with the highest of their exit codes, as srun does. A
# signal that Slurm would send to the tasks comes by way of this process.
import os, pathlib, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
nodes, tasks = int(os.environ["SLURM_JOB_NUM_NODES"]), int(os.environ.get("TASKS_PER_NODE", "1"))
step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(nodes * tasks), "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": f"{tasks}(x{nodes})" if nodes > 1 else str(tasks)}
started = [subprocess.Popen(words, env=os.environ | step | {
    "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank // tasks), "SLURM_LOCALID": str(rank % tasks)})
    for rank in range(nodes * tasks)]
signal.signal(signal.SIGTERM, lambda number, frame: [task.send_signal(number) for task in started])
pathlib.Path("srun.pid").write_text(str(os.getpid()))
sys.exit(max(task.wait() for task in started))
"""
SCONTROL = '#!/bin/sh\necho "$@" >> scontrol.txt\n'
SBATCH = '#!/bin/sh\necho "Submitted batch job 7"\ncp "$1" submitted.sbatch\n'
FIRSTLIGHT = '#!/bin/sh\nexec "$PYTHON" -m firstlight "$@"\n'


@pytest.fixture
def run(tmp_path: Path) -> TinyRun:
    made = make_tiny_run(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "sbatch": SBATCH, "firstlight": FIRSTLIGHT}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    return made


def cluster(run: TinyRun, nodes: int, **more: str) -> dict[str, str]:
    """The environment of a job, with the stand-ins first in the path."""
    path = f"{run.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    job = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NTASKS": str(nodes),
        "SLURM_CPUS_ON_NODE": "2",
    }
    # The batch script of a job has these two, too, without being a task.
    return environment() | job | {"PATH": path, "PYTHON": command()[0], "SLURM_PROCID": "0"} | more


def finished(run: TinyRun, words: list[str], variables: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        words, cwd=run.folder, env=variables, capture_output=True, text=True, timeout=240, check=False
    )
    return done.returncode, done.stdout + done.stderr


def write_script(run: TinyRun, *more: str) -> None:
    words = ["launch", "slurm", "run.yaml", "--nodes", "2", "--nproc-per-node", "1", "-o", "run.sbatch", *more]
    answer = ask(run.folder, *words)
    assert answer.exit_code == 0, answer.err


@pytest.mark.slow
def test_the_script_of_slurm_trains_on_two_nodes(run: TinyRun) -> None:
    alone = run.train("training.output_folder=alone")
    assert alone.returncode == 0, alone.stderr
    write_script(run)
    code, said = finished(run, ["bash", "run.sbatch"], cluster(run, 2))
    assert code == 0, said
    assert "all 2 nodes are there" in said
    lines = (run.folder / "alone" / "metrics.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if line["kind"] == "step"]
    assert len(losses) == 4
    assert [step["loss"] for step in run.metrics("step")] == pytest.approx(losses, rel=1e-5)


@pytest.mark.slow
def test_a_job_whose_time_is_over_saves_and_goes_back_into_the_queue(run: TinyRun) -> None:
    write_script(run, "--set", "training.steps=100000")
    variables = cluster(run, 2)
    job = subprocess.Popen(
        ["bash", "run.sbatch"], cwd=run.folder, env=variables, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: len(run.metrics("step")) > 2, timeout=120)
        os.kill(int((run.folder / "srun.pid").read_text()), signal.SIGTERM)
        _, said = job.communicate(timeout=120)
    finally:
        job.kill()
    assert job.returncode == 75, said
    assert (run.folder / "scontrol.txt").read_text() == f"requeue {variables['SLURM_JOB_ID']}\n"
    last = run.metrics("step")[-1]["step"]
    assert (run.checkpoints / f"step-{last:08.0f}").is_dir()


def test_a_job_that_fails_does_not_go_back(run: TinyRun) -> None:
    write_script(run)
    (run.folder / "bin" / "firstlight").write_text("#!/bin/sh\nexit 2\n")
    assert finished(run, ["bash", "run.sbatch"], cluster(run, 2))[0] == 2
    assert not (run.folder / "scontrol.txt").exists()


def test_a_script_is_submitted(run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "launch slurm run.yaml --nodes 2 --nproc-per-node 1 -o s.sbatch --submit"
    monkeypatch.setenv("PATH", f"{run.folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    answer = ask(run.folder, *words.split())
    assert answer.out == "s.sbatch is written\nSubmitted batch job 7\n"
    assert (run.folder / "submitted.sbatch").read_text() == (run.folder / "s.sbatch").read_text()
    monkeypatch.setenv("PATH", "/nowhere")
    answer = ask(run.folder, *words.split())
    assert (answer.exit_code, answer.message[:31]) == (2, "there is no sbatch on this mach")


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["srun", "mpirun", "torchrun"])
def test_ranks_that_slurm_or_mpi_has_started_train_together(run: TinyRun, starter: str) -> None:
    words = command("train", "run.yaml")
    if starter == "srun":
        code, said = finished(run, ["srun", *words], cluster(run, 1, TASKS_PER_NODE="2"))
        assert code == 0, said
    elif starter == "torchrun":
        elastic = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "firstlight"]
        code, said = finished(run, [command()[0], *elastic, "train", "run.yaml"], environment())
        assert code == 0, said
    else:
        names = ("RANK", "LOCAL_RANK")
        fixed = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "MASTER_PORT": str(free_port())}
        started = [
            subprocess.Popen(
                words,
                cwd=run.folder,
                env=environment() | fixed | {f"OMPI_COMM_WORLD_{name}": str(rank) for name in names},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        said = "".join(process.communicate(timeout=240)[1] for process in started)
        assert [process.returncode for process in started] == [0, 0], said
    assert "data_parallel" in said
    assert len(run.metrics("step")) == 4
    assert json.loads((run.output / "run.json").read_text())["world_size"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pytorchjob", "jobset"])
def test_pods_do_as_the_manifest_says(run: TinyRun, kind: str) -> None:
    words = f"launch kubernetes run.yaml --nodes 2 --nproc-per-node 1 --image x --claim runs={run.folder} --kind {kind}"
    answer = ask(run.folder, *words.split(), "-o", "job.yaml")
    assert answer.exit_code == 0, answer.err
    config, job = YAML(typ="safe").load_all((run.folder / "job.yaml").read_text())
    (run.folder / "mounted").mkdir()
    (run.folder / "mounted" / "run.yaml").write_text(config["data"]["run.yaml"])
    started = [_pod(job, rank) for rank in (1, 0)]
    said = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert len(run.metrics("step")) == 4


def _pod(job: dict[str, Any], rank: int) -> subprocess.Popen[str]:
    """What a kubelet does with the container: variables of the operator and the pod, put into the arguments."""
    if job["kind"] == "JobSet":
        pod = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    else:
        pod = job["spec"]["pytorchReplicaSpecs"]["Worker" if rank else "Master"]["template"]["spec"]
    container = pod["containers"][0]
    variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29400"}
    variables |= {"POD_IP": "127.0.0.1", "NODE_RANK": str(rank)}
    replaced = {"/etc/firstlight/run.yaml": "mounted/run.yaml", "run-node-0-0.run": "localhost"}
    words = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], word) for word in container["args"]]
    return subprocess.Popen(
        command(*(replaced.get(word, word) for word in words)),
        cwd=container["workingDir"],
        env=environment() | variables,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_same_command_on_each_machine(run: TinyRun) -> None:
    """Of one machine: it finds itself among the hosts by its address."""
    words = f"launch nodes run.yaml --nproc-per-node 1 --hosts localhost --master-port {free_port()}"
    done = run.firstlight(*words.split())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nodes run.yaml --nproc-per-node 1", "say which machine this is"),
        ("nodes run.yaml --nproc-per-node 1 --nodes 2 --node-rank 0", "say which machine this is"),
        ("nodes run.yaml --nproc-per-node 1 --hosts localhost --node-rank 0", "say which machine this is"),
        ("nodes run.yaml --nproc-per-node 1 --hosts 198.51.100.1,198.51.100.2", "has the addresses of 0 of --hosts"),
        ("nodes run.yaml --nproc-per-node 1 --hosts no.such.invalid", "no.such.invalid is no address"),
        (
            "nodes run.yaml --nproc-per-node 1 --nodes 2 --node-rank 2 --master-addr localhost",
            "--node-rank 2 is none of the 2 machines",
        ),
        ("slurm run.yaml --nodes 2 --nproc-per-node 1 --submit", "--submit needs --output"),
        ("slurm run.yaml --nodes 3 --nproc-per-node 1", "global_batch_size"),
        ("slurm run.yaml --nodes 2 --nproc-per-node 1 --sbatch=--time=1", "no option of sbatch"),
        (
            "kubernetes run.yaml --nodes 2 --nproc-per-node 1 --image x --claim runs",
            "--claim runs: expected NAME=VALUE",
        ),
    ],
)
def test_what_is_wrong_is_said(run: TinyRun, words: str, message: str) -> None:
    answer = ask(run.folder, "launch", *words.split())
    assert answer.exit_code == 2
    assert message in answer.message
