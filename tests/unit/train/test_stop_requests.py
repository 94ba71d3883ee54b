"""Requests to stop by a file and by a step."""

from pathlib import Path

from firstlight.train.stop_requests import stop_requests


def test_a_step_and_a_file_ask_to_stop(tmp_path: Path) -> None:
    file = tmp_path / "stop"
    asks = stop_requests(file, stop_at_step=4)
    assert [asks(step) for step in (3, 4, 5)] == [None, "training.stop_at_step", None]
    file.touch()
    assert asks(5) == f"{file} (remove it to go on)"
