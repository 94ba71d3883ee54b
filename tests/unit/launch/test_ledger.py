"""What faults are said to have cost."""

import json
import time
from pathlib import Path

import pytest

from firstlight.launch.ledger import EVENTS_FILE, Fault, Ledger


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fault(step: int, action: str = "restart") -> Fault:
    return Fault(time=1.0, round=0, kind="SIGKILL", rank=1, step=step, cause="rank 1 was ended", action=action)


def test_a_fault_costs_the_time_until_the_run_is_as_far_again(tmp_path: Path) -> None:
    clock = Clock()
    ledger = Ledger(tmp_path, clock)
    clock.now = 50.0
    ledger.failed(fault(10), noticed_at=50.0)
    clock.now = 58.0
    ledger.went_on(first_step=8, step=9)
    assert ledger.faults == []
    clock.now = 60.0
    ledger.went_on(first_step=8, step=10)
    (made_up,) = ledger.faults
    assert (made_up.steps_lost, made_up.seconds_lost) == (1, 10.0)
    clock.now = 100.0
    assert "effective training time 90.0 %" in ledger.summary()
    lines = [json.loads(line) for line in (tmp_path / EVENTS_FILE).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["fault", "recovered"]


def test_a_fault_before_the_last_one_is_made_up_for_keeps_its_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Clock())
    ledger.failed(fault(10), noticed_at=0.0)
    ledger.failed(fault(10, action="stop"), noticed_at=0.0)
    assert [one.action for one in ledger.faults] == ["restart", "stop"]


def test_without_faults_there_is_no_table(tmp_path: Path) -> None:
    assert Ledger(tmp_path, Clock()).summary() == ""


def test_a_folder_that_is_not_there_loses_lines_only(tmp_path: Path) -> None:
    Ledger(tmp_path / "none", Clock()).failed(fault(1), noticed_at=0.0)


def test_another_supervisors_faults_are_gone_on_from(tmp_path: Path) -> None:
    """What they cost counts from when they happened, which is before this supervisor began."""
    fault = Fault(time=time.time() - 30, round=0, kind="node lost", rank=0, step=7, cause="", action="restart")
    ledger = Ledger(tmp_path)
    ledger.adopt([fault])
    ledger.went_on(first_step=6, step=7)
    assert ledger.faults[0].seconds_lost == pytest.approx(30, abs=5)
    assert ledger.faults[0].steps_lost == 0
    assert "effective training time 0.0 %" in ledger.summary()


def test_a_fault_that_is_made_up_for_is_not_counted_again_by_who_leads_next(tmp_path: Path) -> None:
    first = Ledger(tmp_path, clock := Clock())
    lost = Fault(time=time.time() - 1, round=0, kind="node lost", rank=0, step=7, cause="", action="restart")
    first.failed(lost, clock.now)
    clock.now += 12
    first.went_on(first_step=5, step=7)
    second = Ledger(tmp_path)
    second.adopt([lost])
    second.went_on(first_step=7, step=8)
    assert [(one.steps_lost, one.seconds_lost) for one in second.faults] == [(1, 12.0)]
    assert (tmp_path / "faults.jsonl").read_text().count('"recovered"') == 1


def test_rewinds_that_the_first_rank_wrote_are_in_the_table(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, clock := Clock())
    later = time.time() + 1
    lines = [
        {"time": 1.0, "event": "rewind", "step": 5, "cause": "of an earlier start"},
        {"time": later, "event": "rewind", "step": 8, "cause": "loss is a spike"},
        {"time": later, "event": "rewound", "step": 8, "steps_lost": 4, "seconds_lost": 25.0},
    ]
    (tmp_path / EVENTS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    clock.now = 100.0
    assert ledger.summary().splitlines()[1:] == [
        "bad numbers      -      8           4          25.0  rewind",
        "1 fault(s) in 100 s, one every 100 s; effective training time 75.0 %",
    ]
