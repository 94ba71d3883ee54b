"""metrics.jsonl: every record of a run, one JSON object a line, and no step twice however often the run restarts.

Line: {"kind": "step" | "evaluation", "version": 1, ...the record's names}, or {"kind": "ranks", "version": 1,
"step": n, ...names, each with a list of one number for each rank}. A number that is not finite is null.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger
from firstlight.observe.record import RankTable, Record, held_out_sets

METRICS_FILE = "metrics.jsonl"
VERSION = 1


class JsonLines:
    """A sink for programs. Each line is with the operating system before the next step begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._evaluated: set[tuple[object, ...]] = set()

    def open(self, step: int, /) -> None:
        """Continue the file after `step`; lines of later steps and a torn last line are removed from it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            _keep_until(self._path, step)
            lines = read_metrics(self._path)
            self._evaluated = {_subject(line) for line in lines if line["kind"] == "evaluation"}
        self._file = self._path.open("a", encoding="utf-8")

    def write_step(self, record: Record, /) -> None:
        """Append a line of kind "step"."""
        self._write("step", record)

    def write_evaluation(self, record: Record, /) -> None:
        """Append a line of kind "evaluation", unless this one is there: a restarted run may repeat the last one."""
        if _subject(record) not in self._evaluated:
            self._evaluated.add(_subject(record))
            self._write("evaluation", record)

    def write_ranks(self, step: int, table: RankTable, /) -> None:
        """Append a line of kind "ranks"."""
        self._append("ranks", {"step": step, **{name: [_finite(one) for one in each] for name, each in table.items()}})

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
            self._file = None

    def _write(self, kind: str, record: Record) -> None:
        self._append(kind, {name: _finite(value) for name, value in record.items()})

    def _append(self, kind: str, values: Mapping[str, Any]) -> None:
        if self._file is None:
            raise RuntimeError(f"{self._path} is not open")
        self._file.write(json.dumps({"kind": kind, "version": VERSION, **values}, allow_nan=False) + "\n")
        self._file.flush()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _subject(record: Record) -> tuple[object, ...]:
    """What an evaluation is of: its step and its sets."""
    return (record["step"], *sorted(held_out_sets(record)))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, in order. A last line that a killed run left unfinished is dropped.

    Raises InputError when the file is missing, or is damaged before its last line.
    """
    try:
        lines = _lines(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; is {path.parent} the folder of a run that logs to jsonl?") from None
    records = [_parsed(line) for line in lines]
    if records and records[-1] is None:
        records.pop()
    for number, record in enumerate(records, start=1):
        if record is None:
            raise InputError(f"{path}:{number}: not a line of metrics; remove the line to read the others")
    return [record for record in records if record is not None]


def _keep_until(path: Path, step: int) -> None:
    """Rewrite `path` without the lines of later steps and those that cannot be read, if there are any."""
    lines = _lines(path)
    records = [_parsed(line) for line in lines]
    kept = [line for line, record in zip(lines, records, strict=True) if record is not None and record["step"] <= step]
    # a last line whose newline was not written any more would swallow the next one
    text = "".join(line + "\n" for line in kept)
    if text.encode() == path.read_bytes():
        return
    get_logger().info("%s: %d lines of steps after %d, or torn, removed", path.name, len(lines) - len(kept), step)
    beside = path.with_name(path.name + ".partial")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _lines(path: Path) -> list[str]:
    # a torn line may end inside a character
    return [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line]


def _parsed(line: str) -> dict[str, Any] | None:
    """The record of a line, or None when it is none."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("step"), int | float) and "kind" in record
    return record if is_record else None
