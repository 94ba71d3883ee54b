from pathlib import Path

import pytest

from firstlight.observe.events import Event, EventLog, read_events


def test_events_are_kept_in_order_and_told(tmp_path: Path) -> None:
    heard: list[Event] = []
    log = EventLog(tmp_path / "events.jsonl", clock=lambda: 12.5)
    log.listen(heard.append)
    log.add("start", 0, "begins")
    log.add("skip", 3, "left out", {"grad_norm": float("inf"), "loss": 2.0})
    found = read_events(tmp_path / "events.jsonl")
    assert found == heard
    assert found[1] == Event(kind="skip", step=3, text="left out", facts={"grad_norm": None, "loss": 2.0}, time=12.5)


def test_a_torn_line_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).add("start", 0, "begins")
    with path.open("a") as file:
        file.write('{"version": 1, "ti')
    EventLog(path).add("stop", 4, "done")
    assert [event.kind for event in read_events(path)] == ["start", "stop"]
    assert read_events(tmp_path / "absent") == []


def test_a_full_disk_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog(tmp_path)  # a folder cannot be appended to
    log.add("start", 0, "begins")
    log.add("stop", 1, "done")
    assert caplog.text.count("events are not written, the run goes on") == 1


def test_ranks_without_a_file_keep_nothing() -> None:
    log = EventLog(None)
    log.listen(lambda _event: pytest.fail("told"))
    assert log.add("stop", 1, "done").text == "done"
