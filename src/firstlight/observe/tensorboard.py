"""Event files for TensorBoard, with scalars under the records' own names.

Written through the tensorboard package, not torch.utils.tensorboard, whose import takes seconds.
"""

from pathlib import Path
from typing import Any

from firstlight.observe.record import RankTable, Record


class TensorBoard:
    """A sink for TensorBoard; `folder` collects one event file for each start of the run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def open(self, step: int, /) -> None:
        """Start an event file; TensorBoard is told to forget steps after `step` from earlier files."""
        # imported here: slow, and only needed by a run that has this sink
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import (
            EventFileWriter,
        )

        self._writer = EventFileWriter(str(self._folder))
        # the reader drops steps >= that of a START, as for torch's SummaryWriter(purge_step=...)
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(step=step + 1, session_log=start))
        self._writer.flush()

    def write_step(self, record: Record, /) -> None:
        """Write a step's scalars."""
        self._write(record)

    def write_evaluation(self, record: Record, /) -> None:
        """Write an evaluation's scalars."""
        own = {name: value for name, value in record.items() if name.startswith("evaluate/")}
        self._write({**own, "step": record["step"], "time": record["time"]})

    def write_ranks(self, _step: int, _table: RankTable, /) -> None:
        """Not written: the records have the slowest rank."""

    def close(self) -> None:
        """Finish the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, record: Record) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is None:
            raise RuntimeError(f"{self._folder} is not open")
        scalars = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if name not in ("step", "time")
        ]
        event = Event(wall_time=record["time"], step=int(record["step"]), summary=Summary(value=scalars))
        self._writer.add_event(event)
        self._writer.flush()
