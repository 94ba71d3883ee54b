import gzip
import json
import logging
from pathlib import Path

import pytest
import torch

from firstlight.config.monitor import ProfileConfig
from firstlight.observe.events import EventLog, read_events
from firstlight.observe.profile import Row, TorchProfile, communication_seconds, table


def profiled(folder: Path, config: ProfileConfig, steps: int) -> TorchProfile:
    profile = TorchProfile(config, folder / "profile", rank=3, events=EventLog(folder / "events.jsonl"))
    for step in range(1, steps + 1):
        profile.before_step(step)
        with profile.span("forward_backward"):
            torch.mm(torch.ones(64, 64), torch.ones(64, 64))
        profile.after_step(step)
    return profile


def names(folder: Path) -> list[str]:
    with gzip.open(folder / "profile" / "rank-3.json.gz", "rt") as file:
        return [event["name"] for event in json.load(file)["traceEvents"] if "name" in event]


def test_the_steps_of_the_window_are_in_the_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="firstlight")
    profiled(tmp_path, ProfileConfig(first_step=2, num_steps=2), steps=5).close()
    assert names(tmp_path).count("firstlight: forward_backward") == 2
    assert names(tmp_path).count("aten::mm") == 2
    (event,) = read_events(tmp_path / "events.jsonl")
    assert (event.kind, event.step, event.facts["steps"]) == ("profile", 3, 2)
    assert "aten::mm" in caplog.text
    assert caplog.text.count("per step") == 1


def test_a_run_that_ends_within_the_window_leaves_what_there_is(tmp_path: Path) -> None:
    profile = profiled(tmp_path, ProfileConfig(first_step=2, num_steps=5), steps=3)
    profile.close()
    assert names(tmp_path).count("aten::mm") == 2


def test_steps_outside_cost_nothing(tmp_path: Path) -> None:
    profiled(tmp_path, ProfileConfig(first_step=9), steps=3).close()
    assert not (tmp_path / "profile").exists()


def test_table_of_the_longest_operations() -> None:
    rows = [Row(name="aten::mm", seconds=0.5, calls=20), Row(name="gloo:all_reduce", seconds=0.1, calls=2)]
    assert table(rows, seconds=1.0, steps=2) == [
        "  per step  share   calls  operation",
        "    250 ms    50%      10  aten::mm",
        "     50 ms    10%       1  gloo:all_reduce",
    ]
    assert communication_seconds(rows) == 0.1
