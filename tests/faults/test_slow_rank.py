"""A rank that is twice as slow as the others is named within twenty steps, whatever slows it; no other one is."""

import os
import signal
import threading
from pathlib import Path

import pytest

from firstlight.base.heartbeat import read_beats
from firstlight.base.world import STORE_VARIABLE
from firstlight.observe.events import Event, read_events
from tests.runs import TinyRun, make_tiny_run, wait_until

BEGIN = 20
_SLICE = 0.005
"""Seconds."""


def alerts(run: TinyRun) -> list[Event]:
    return [event for event in read_events(run.output / "events.jsonl") if event.kind == "alert"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["shards", "pipelines"])
def test_data_that_comes_late(tmp_path: Path, layout: str) -> None:
    processes, overrides = (2, ()) if layout == "shards" else (4, ("parallelism.pipeline_parallel=2",))
    run = make_tiny_run(tmp_path)
    late = ", ".join(f"{{kind: slow, rank: 1, step: {step}, seconds: 0.3}}" for step in range(BEGIN, BEGIN + 20))
    done = run.train(
        "training.steps=55",
        "training.micro_batch_size=1",
        "checkpoint.save_every_steps=0",
        f"resilience.inject=[{late}]",
        *overrides,
        processes=processes,
    )
    assert done.returncode == 0, done.stderr
    begun, ended = alerts(run)
    assert begun.facts["rank"] == ended.facts["rank"] == 1
    assert BEGIN < begun.step < BEGIN + 20
    assert f"step {begun.step}: rank 1 is slow: it takes 3" in done.stderr
    assert ended.text.startswith("rank 1 is as fast as the others again")
    assert '"event": "slow_rank"' in (run.output / "faults.jsonl").read_text()


@pytest.mark.slow
def test_a_processor_that_is_taken_away_half_of_the_time(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    process = run.start_training(
        "training.steps=100000", "model.hidden_size=768", "checkpoint.save_every_steps=0", processes=2
    )
    try:
        wait_until(lambda: len(run.metrics("step")) >= BEGIN, timeout=90)
        assert alerts(run) == []
        pid = rank_pids(process.pid)[1]
        at = len(run.metrics("step"))
        with slowed(pid):
            wait_until(lambda: bool(alerts(run)), timeout=60)
        (alert,) = alerts(run)[:1]
        assert alert.facts["rank"] == 1
        assert alert.step - at <= 21, "one step may be under way"
    finally:
        process.terminate()
        process.communicate(timeout=60)


class slowed:  # noqa: N801  # reads as a verb
    """Stops a process for 5 of every 10 ms: steps take many times as long."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ended.wait(_SLICE):
            os.kill(self._pid, signal.SIGSTOP)
            self._ended.wait(_SLICE)
            os.kill(self._pid, signal.SIGCONT)


def rank_pids(launcher: int) -> list[int]:
    """The processes of the ranks, by rank, from their signs of life."""
    environment = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    (folder,) = {
        Path(entry.partition("=")[2])
        for child in environment
        for entry in Path(f"/proc/{child}/environ").read_text().split("\0")
        if entry.startswith(f"{STORE_VARIABLE}=")
    }
    return [beat.pid for beat in read_beats(folder)]
