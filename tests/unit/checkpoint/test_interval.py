"""How often a save pays: Young and Daly's interval, from what saves cost here."""

import math
from pathlib import Path

import pytest

from firstlight.base.peers import Alone, Peers
from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.checkpoint.step_folder import candidates, step_of
from firstlight.config.training import CheckpointConfig
from firstlight.layout.save_interval import young_daly_seconds
from tests.unit.checkpoint.disk import LocalDisk
from tests.unit.checkpoint.state import State
from tests.unit.resilience.peers import on_ranks

HOUR = 3600.0


def lost(interval: float, cost: float, failures: float) -> float:
    """Expected time for one second of work (Daly's model without the time of a restart)."""
    return failures * (math.exp((interval + cost) / failures) - 1) / interval


@pytest.mark.parametrize(("cost", "failures"), [(1.0, HOUR), (30.0, HOUR), (300.0, HOUR), (60.0, 24 * HOUR)])
def test_no_other_interval_loses_less_time(cost: float, failures: float) -> None:
    best = young_daly_seconds(cost, failures)
    least = min(lost(seconds, cost, failures) for seconds in range(1, int(4 * best)))
    assert lost(best, cost, failures) == pytest.approx(least, rel=1e-4)


def test_where_a_save_takes_longer_than_a_failure_is_away() -> None:
    assert young_daly_seconds(200.0, 100.0) == 100.0


class Clock:
    """Seconds that pass only when a disk or a test lets them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class CostlyDisk(LocalDisk):
    """Every flush of a folder takes so many seconds of the clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds

    def rename(self, old: Path, new: Path) -> None:
        self.clock.now += self.seconds
        super().rename(old, new)


def auto(folder: Path, clock: Clock, *, peers: Peers | None = None, seconds: float = 1.0) -> Checkpointer:
    config = CheckpointConfig(save_every_steps="auto", mean_hours_between_failures=2, keep_last=100, asynchronous=False)
    disk = CostlyDisk(clock, seconds)
    return Checkpointer(folder, config, peers or Alone(), configuration={}, clock=clock, disk=disk)


def saved_at(folder: Path, clock: Clock, one: Checkpointer, *, steps: int, step_seconds: float) -> list[float]:
    times = []
    for step in range(1, steps + 1):
        clock.now += step_seconds
        if one.due(step):
            times.append(clock.now)
            one.save(State(step))
    assert len(candidates(folder)) == len(times)
    return times


def test_the_first_save_is_measured_and_the_others_follow_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    caplog.set_level("INFO")
    times = saved_at(tmp_path, clock, auto(tmp_path, clock), steps=1000, step_seconds=1)
    # Two renames a save: the folder and the pointer.
    interval = young_daly_seconds(2.0, 2 * HOUR)
    assert times[0] == 1.0
    gaps = [after - before for before, after in zip(times[:-1], times[1:], strict=True)]
    assert all(interval <= gap <= interval + 3 for gap in gaps)
    assert len(gaps) > 4
    (said,) = [line for line in caplog.messages if "Young/Daly" in line]
    assert said == (
        f"checkpoints every {interval:,.0f} s: a save keeps the step waiting for 2.000 s, and a failure is expected "
        "every 2 hours (Young/Daly)"
    )


def test_a_slower_disk_is_saved_to_less_often(tmp_path: Path) -> None:
    clock = Clock()
    before = saved_at(tmp_path / "one", clock, auto(tmp_path / "one", clock), steps=400, step_seconds=1)
    clock = Clock()
    slow = saved_at(tmp_path / "two", clock, auto(tmp_path / "two", clock, seconds=9.0), steps=1200, step_seconds=1)
    assert (before[2] - before[1]) * 2 < slow[2] - slow[1]


def test_ranks_whose_clocks_differ_save_the_same_steps(tmp_path: Path) -> None:
    def train(peers: Peers) -> None:
        clock = Clock()
        one = auto(tmp_path, clock, peers=peers)
        for step in range(1, 400):
            clock.now += 1.0 + 5 * peers.rank
            if one.due(step):
                one.save(State(step))
        one.finish()

    assert on_ranks(2, train) == [None, None]
    steps = sorted(step_of(folder) for folder in candidates(tmp_path))
    assert steps[0] == 1
    interval = young_daly_seconds(2.0, 2 * HOUR)
    assert steps[1] - steps[0] == pytest.approx(interval, abs=3)
