"""A fault in the middle of a run: named, recovered from, and the final weights are those of an undisturbed run."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from firstlight.checkpoint.memory import SHARED_MEMORY
from firstlight.checkpoint.step_folder import candidates
from tests.runs import TinyRun, make_tiny_run, wait_until

STEPS = 14
RUN = (
    f"training.steps={STEPS}",
    "training.micro_batch_size=1",
    "checkpoint.save_every_steps=10",
    "resilience.snapshot_every_steps=1",
    "resilience.frozen_after_seconds=6",
    "resilience.hung_after_seconds=10",
)

pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="this machine has no /dev/shm")


def train(folder: Path, *overrides: str, processes: int = 2) -> tuple[TinyRun, str]:
    """What a run that comes to its end has said."""
    run = make_tiny_run(folder)
    done = run.train(*RUN, *overrides, processes=processes)
    assert done.returncode == 0, done.stderr
    return run, done.stderr


def events(run: TinyRun, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run.output / "faults.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def last_tensors(run: TinyRun) -> dict[str, bytes]:
    """Weights and moments after the last step, as they lie on the disk."""
    newest = candidates(run.checkpoints)[0]
    assert newest.name == f"step-{STEPS:08d}"
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


def assert_recovered(run: TinyRun, undisturbed: TinyRun, *, kind: str, rank: int, step: int) -> None:
    (fault,) = events(run, "fault")
    assert (fault["kind"], fault["rank"], fault["step"], fault["action"]) == (kind, rank, step, "restart")
    (recovered,) = events(run, "recovered")
    assert recovered["steps_lost"] <= 1
    assert last_tensors(run) == last_tensors(undisturbed)
    assert [line["samples"] for line in run.metrics("step")][-1] == 4 * STEPS


def test_a_killed_rank(tmp_path: Path) -> None:
    undisturbed, _ = train(tmp_path / "undisturbed")
    run, said = train(tmp_path / "run", "resilience.inject=[{kind: kill, rank: 1, step: 7}]")
    assert_recovered(run, undisturbed, kind="SIGKILL", rank=1, step=7)
    assert "rank 1 on host" in said
    assert "was ended by SIGKILL" in said
    assert "step 7 was under way; the ranks start again" in said
    assert "done: steps 7 to 14" in said, "no step was lost"
    identity = (run.output / "identity").read_text()
    assert not list(SHARED_MEMORY.glob(f"*{identity}")), "memory is freed at the end"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("stop", "frozen"),
        ("hold_interpreter", "frozen"),
        ("hang", "hung"),
        ("segfault", "SIGSEGV"),
        ("raise", "RuntimeError"),
    ],
)
@pytest.mark.parametrize(("rank", "processes"), [(0, 2), (3, 4)])
def test_every_kind_of_fault(tmp_path: Path, fault: str, kind: str, rank: int, processes: int) -> None:
    undisturbed, _ = train(tmp_path / "undisturbed", processes=processes)
    inject = f"resilience.inject=[{{kind: {fault}, rank: {rank}, step: 7}}]"
    run, said = train(tmp_path / "run", inject, processes=processes)
    assert_recovered(run, undisturbed, kind=kind, rank=rank, step=7)
    if fault == "hang":
        assert "in before_step" in said, "where it hangs"
        assert "; it is in <lambda> (planted_faults.py:" in events(run, "fault")[0]["cause"]
    if fault in ("hang", "stop"):
        (event,) = events(run, "fault")
        traces = run.output / event["traces"]
        assert f"stacks and collectives of the ranks: {traces}" in said
        answered = {number for number in range(processes) if (traces / f"collectives-{number}.json").exists()}
        assert answered == set(range(processes)) - ({rank} if fault == "stop" else set())
        last = json.loads((traces / f"collectives-{min(answered)}.json").read_text())["entries"][-1]
        assert last["profiling_name"].startswith("gloo:")
        assert "most recent call first" in (traces / f"stacks-{min(answered)}.txt").read_text()


@pytest.mark.slow
def test_the_same_failure_over_and_over_ends_the_run_and_keeps_the_last_state(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    faults = ", ".join("{kind: raise, rank: 1, step: 7}" for _ in range(3))
    done = run.train(*RUN, f"resilience.inject=[{faults}]", processes=2)
    assert done.returncode == 1
    assert "RuntimeError of rank 1 in step 7 came 3 times (resilience.same_failure_limit)" in done.stderr
    assert [fault["action"] for fault in events(run, "fault")] == ["restart", "restart", "stop"]
    assert "step-00000006" in os.listdir(run.checkpoints)
    went_on = run.train(*RUN, processes=2)
    assert went_on.returncode == 0
    assert "done: steps 7 to 14" in went_on.stderr


@pytest.mark.slow
def test_a_slow_rank_is_no_fault(tmp_path: Path) -> None:
    run, _ = train(tmp_path, "resilience.inject=[{kind: slow, rank: 1, step: 7, seconds: 4}]")
    assert not (run.output / "faults.jsonl").exists()


@pytest.mark.slow
def test_a_file_asks_a_run_to_stop(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    process = run.start_training("training.steps=100000", "checkpoint.save_every_steps=0")
    end = time.monotonic() + 60
    while not run.metrics("step") and time.monotonic() < end:
        time.sleep(0.1)
    (run.output / "stop").touch()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert f"preempted by {run.output / 'stop'} (remove it to go on)" in said
    assert os.listdir(run.checkpoints)


@pytest.mark.slow
def test_a_killed_supervisor_leaves_the_state_in_memory(tmp_path: Path) -> None:
    undisturbed, _ = train(tmp_path / "undisturbed")
    run = make_tiny_run(tmp_path / "run")
    process = run.start_training(*RUN, "resilience.inject=[{kind: hang, rank: 0, step: 8}]", processes=2)
    wait_until(lambda: len(run.metrics("step")) >= 7)
    time.sleep(1)  # the snapshot of step 7 follows its record
    process.kill()
    process.communicate()
    assert not os.path.exists(run.checkpoints / "latest"), "the disk has none yet"
    done = run.train(*RUN, processes=2)
    assert done.returncode == 0, done.stderr
    assert "done: steps 8 to 14" in done.stderr
    assert last_tensors(run) == last_tensors(undisturbed)
