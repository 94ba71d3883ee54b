"""Several machines, each a network namespace with an address of its own and no other way to the others."""

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import command, environment, make_tiny_run, wait_until
from tests.unit.cli.test_mindformers import ORDER, SMALL, home, run, shell_environment

__all__ = ["home", "run"]  # fixtures

TIMEOUT_SECONDS = 300
MASTER = "10.231.7.1"
FOUR = "--use_parallel True --parallel_config.data_parallel 4 --batch_size 1 --train_dataset.data_loader.sizes [27,0,0]"


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """The names of two namespaces that reach each other."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    tag = uuid.uuid4().hex[:6]
    names = [f"fl-{tag}-{number}" for number in (0, 1)]
    ends = [f"fl{tag}{number}" for number in (0, 1)]
    try:
        if not (all(ip("netns", "add", name) for name in names) and _joined(names, ends)):
            pytest.skip("network namespaces cannot be made here")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def _joined(names: list[str], ends: list[str]) -> bool:
    done = [ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])]
    for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
        done += [
            ip("-n", name, "addr", "add", f"10.231.7.{number}/24", "dev", end),
            ip("-n", name, "link", "set", end, "up"),
            ip("-n", name, "link", "set", "lo", "up"),
        ]
    return all(done)


def start_in(name: str, home: Path, *words: str) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", name, "bash", "scripts/msrun_launcher.sh", *words]
    return subprocess.Popen(
        command, cwd=home, env=shell_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def launch_words(order: str, rank: int, seconds: int = 120) -> list[str]:
    return [order, "4", "2", MASTER, "8118", str(rank), f"logs_{rank}", "True", str(seconds)]


@pytest.mark.slow
def test_two_machines_train_together(nodes: list[str], home: Path) -> None:
    order = f"{ORDER} {SMALL} --output_dir machines {FOUR}"
    processes = [start_in(name, home, *launch_words(order, rank)) for rank, name in enumerate(nodes)]
    said = [process.communicate(timeout=TIMEOUT_SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "step:[    3/    3], loss: " in (home / "logs_0/worker_0.log").read_text()
    assert {path.name for path in (home / "logs_1").iterdir()} == {"launcher_1.log", "worker_2.log", "worker_3.log"}


@pytest.mark.slow
def test_the_same_words_on_each_machine_train_together(nodes: list[str], tmp_path: Path) -> None:
    """Each finds itself among the hosts by its address."""
    tiny = make_tiny_run(tmp_path)
    words = ["launch", "nodes", "run.yaml", "--nproc-per-node", "1", "--hosts", f"{MASTER},10.231.7.2"]
    processes = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, *command(*words)],
            cwd=tiny.folder,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in nodes
    ]
    said = [process.communicate(timeout=TIMEOUT_SECONDS)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "all 2 nodes are there; this is node 1" in said[1]
    assert len(tiny.metrics("step")) == 4


@pytest.mark.slow
def test_a_machine_whose_master_dies_ends(nodes: list[str], home: Path) -> None:
    order = f"{ORDER} {SMALL} --output_dir dying --epochs 5000 {FOUR}"
    processes = [start_in(name, home, *launch_words(order, rank)) for rank, name in enumerate(nodes)]
    try:
        log = home / "logs_0/worker_0.log"
        wait_until(lambda: log.is_file() and "step:[    2/15000]" in log.read_text(), timeout=TIMEOUT_SECONDS)
        processes[0].send_signal(signal.SIGKILL)
        out, err = processes[1].communicate(timeout=120)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert processes[1].returncode not in (0, None)
    assert "rank" in out + err
