import json
from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.observe.jsonl import JsonLines, read_metrics


def write(path: Path, *, restored: int, steps: range) -> None:
    sink = JsonLines(path)
    sink.open(restored)
    for step in steps:
        sink.write_step({"step": step, "loss": 5.0 - step / 10})
    sink.close()


def steps_in(path: Path) -> list[int]:
    return [line["step"] for line in read_metrics(path)]


def test_lines_have_kind_and_version(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    sink = JsonLines(path)
    sink.open(0)
    sink.write_step({"step": 1, "loss": 4.5})
    sink.write_evaluation({"step": 1, "evaluate/wiki/loss": 4.0})
    assert read_metrics(path) == [
        {"kind": "step", "version": 1, "step": 1, "loss": 4.5},
        {"kind": "evaluation", "version": 1, "step": 1, "evaluate/wiki/loss": 4.0},
    ]
    sink.close()


def test_restart_removes_lines_after_the_restored_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, restored=0, steps=range(1, 8))
    write(path, restored=4, steps=range(5, 7))
    assert steps_in(path) == [1, 2, 3, 4, 5, 6]
    write(path, restored=0, steps=range(1, 2))
    assert steps_in(path) == [1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("torn", [b'{"kind": "step", "vers', b'{"kind": "step", "text": "\xc3', b"\x00\x00\x00"])
def test_torn_last_line_is_dropped_by_reader_and_by_restart(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, restored=0, steps=range(1, 4))
    with path.open("ab") as file:
        file.write(torn)
    assert steps_in(path) == [1, 2, 3]
    write(path, restored=3, steps=range(4, 5))
    assert steps_in(path) == [1, 2, 3, 4]


def test_line_whose_newline_is_missing_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, restored=0, steps=range(1, 4))
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    write(path, restored=3, steps=range(4, 5))
    assert steps_in(path) == [1, 2, 3, 4]


def test_lines_are_in_the_file_before_it_is_closed(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.open(0)
    sink.write_step({"step": 1})
    assert steps_in(tmp_path / "metrics.jsonl") == [1]
    sink.close()


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    sink.open(0)
    sink.write_step({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    sink.close()
    line = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert line["loss"] is None
    assert line["grad_norm"] is None


def test_missing_file_and_damage_inside_are_the_users_to_know(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_metrics(tmp_path / "metrics.jsonl")
    path = tmp_path / "metrics.jsonl"
    write(path, restored=0, steps=range(1, 3))
    path.write_text("garbage\n" + path.read_text())
    with pytest.raises(InputError, match=r"metrics\.jsonl:1: not a line of metrics"):
        read_metrics(path)
