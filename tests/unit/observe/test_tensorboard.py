import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from firstlight.observe.tensorboard import TensorBoard


def write(folder: Path, *, restored: int, steps: range, loss: float) -> None:
    sink = TensorBoard(folder)
    sink.open(restored)
    for step in steps:
        sink.write_step({"step": step, "loss": loss, "seconds/data": 0.25, "time": 1_700_000_000.0 + step})
    sink.write_evaluation({"step": steps[-1], "tokens": 9, "evaluate/wiki/loss": 3.0, "time": 1_700_000_100.0})
    sink.close()


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_scalars_are_read_back_under_the_records_names(tmp_path: Path) -> None:
    write(tmp_path, restored=0, steps=range(1, 4), loss=2.5)
    events = read(tmp_path)
    assert sorted(events.Tags()["scalars"]) == ["evaluate/wiki/loss", "loss", "seconds/data"]
    assert [(event.step, event.value, event.wall_time) for event in events.Scalars("loss")] == [
        (1, 2.5, 1_700_000_001.0),
        (2, 2.5, 1_700_000_002.0),
        (3, 2.5, 1_700_000_003.0),
    ]
    assert events.Scalars("evaluate/wiki/loss")[0].value == pytest.approx(3.0)


def test_steps_after_the_restored_one_do_not_appear_twice(tmp_path: Path) -> None:
    write(tmp_path, restored=0, steps=range(1, 8), loss=2.0)
    write(tmp_path, restored=4, steps=range(5, 7), loss=1.0)
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 2.0),
        (2, 2.0),
        (3, 2.0),
        (4, 2.0),
        (5, 1.0),
        (6, 1.0),
    ]
    assert [event.step for event in events.Scalars("evaluate/wiki/loss")] == [6]


def test_records_are_on_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path)
    sink.open(0)
    sink.write_step({"step": 1, "loss": 2.0, "time": 1.0})
    assert [event.step for event in read(tmp_path).Scalars("loss")] == [1]
    sink.close()


def test_the_slow_package_is_not_imported_before_a_run_opens_the_sink() -> None:
    code = "import sys, firstlight.observe.recorder; print([n for n in ('tensorboard', 'torch') if n in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
