"""A run that is killed and started again with the same command ends as one that was left alone, to the last bit."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from firstlight.checkpoint.manifest import Manifest, read_manifest
from firstlight.checkpoint.step_folder import candidates
from tests.runs import TinyRun, command, environment, make_tiny_run, train_arguments, wait_until

STEPS = 7
# Four micro-batches a step on one process, two on two; a checkpoint every other step.
OVERRIDES = (
    f"training.steps={STEPS}",
    "training.global_batch_size=4",
    "training.micro_batch_size=1",
    "checkpoint.save_every_steps=2",
)

# The first six flushes are those of config.yaml, identity and run.json.
KILLED_AT_FLUSH = """
import os, signal
from firstlight.cli.main import main
flushes, flush = 0, os.fsync
def flush_or_die(descriptor):
    global flushes
    flushes += 1
    if flushes == {flush}:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)
os.fsync = flush_or_die
main()
"""


def start(run: TinyRun, processes: int, *more: str) -> subprocess.Popen[bytes]:
    """The training command."""
    return subprocess.Popen(
        command(*train_arguments(*OVERRIDES, *more, processes=processes)),
        cwd=run.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_when(process: subprocess.Popen[bytes], is_time: Any) -> None:
    """SIGKILL to the process that the user started, once `is_time` says so; its ranks must end with it.

    Fails when the run ends before.
    """
    wait_until(lambda: is_time() or process.poll() is not None)
    assert process.poll() is None, f"the run ended by itself with {process.returncode}"
    ranks = children(process.pid)
    process.kill()
    process.wait(timeout=30)
    wait_until(lambda: not any(is_running(rank) for rank in ranks), timeout=5)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def last_step(run: TinyRun) -> int:
    return max((line["step"] for line in run.metrics("step")), default=0)


def finish(run: TinyRun, processes: int) -> Manifest:
    done = run.train(*OVERRIDES, processes=processes)
    assert done.returncode == 0, done.stderr
    return read_manifest(candidates(run.checkpoints)[0])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[TinyRun, Manifest]]:
    finished = {}
    for processes in (1, 2):
        run = make_tiny_run(tmp_path_factory.mktemp(f"undisturbed-{processes}"))
        finished[processes] = (run, finish(run, processes))
    return finished


def test_ranks_end_with_their_launcher(tmp_path: Path):
    """A run of hours, whose ranks would not end by themselves."""
    run = make_tiny_run(tmp_path)
    kill_when(start(run, 2, "training.steps=100000", "checkpoint.save_every_steps=0"), lambda: last_step(run) >= 1)
    reached = last_step(run)
    time.sleep(0.5)
    assert last_step(run) == reached


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_several_steps(undisturbed: dict[int, tuple[TinyRun, Manifest]], processes: int, tmp_path: Path):
    run = make_tiny_run(tmp_path)
    # Before the first checkpoint, just after one, and between two.
    for step in (1, 4, 5):
        kill_when(start(run, processes), lambda step=step: last_step(run) >= step)
    disturbed = finish(run, processes)
    reference, manifest = undisturbed[processes]
    assert disturbed.step == STEPS
    # The files' digests are those of every weight and moment; the state holds samples, tokens and data position.
    assert disturbed.files == manifest.files
    assert disturbed.state == manifest.state
    losses = [(line["step"], line["loss"]) for line in run.metrics("step")]
    assert losses == [(line["step"], line["loss"]) for line in reference.metrics("step")]


@pytest.mark.parametrize("flush", [7, 10, 12, 13])
def test_killed_while_saving(undisturbed: dict[int, tuple[TinyRun, Manifest]], flush: int, tmp_path: Path):
    """SIGKILL in the first save: at the weights, the manifest, the publishing rename and the pointer to it."""
    run = make_tiny_run(tmp_path)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_FLUSH.format(flush=flush), *train_arguments(*OVERRIDES)],
        cwd=run.folder,
        env=environment(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert last_step(run) >= 2
    # Published by the rename behind the eleventh flush.
    assert len(candidates(run.checkpoints)) == (flush > 11)
    assert finish(run, 1).files == undisturbed[1][1].files


def test_one_and_two_processes_end_with_equal_weights(undisturbed: dict[int, tuple[TinyRun, Manifest]], tmp_path: Path):
    """Continued on another number of processes, a run consumes the same samples and its losses stay the same."""
    run = make_tiny_run(tmp_path)
    kill_when(start(run, 2), lambda: last_step(run) >= 4)
    moved = finish(run, 1)
    reference, manifest = undisturbed[1]
    assert moved.state == manifest.state
    for here, there in zip(run.metrics("step"), reference.metrics("step"), strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-6)
