"""What a sink is."""

from typing import Protocol

from firstlight.observe.record import RankTable, Record


class Sink(Protocol):
    """A place that records go to. A write may raise OSError."""

    def open(self, step: int, /) -> None:
        """Begin, or continue after `step`: what was written of later steps no longer holds."""

    def write_step(self, record: Record, /) -> None:
        """Take a step's record (names: `record`)."""

    def write_evaluation(self, record: Record, /) -> None:
        """Take an evaluation's record."""

    def write_ranks(self, step: int, table: RankTable, /) -> None:
        """Take the figures of each rank at a step."""

    def close(self) -> None:
        """Let go of files; also after a failed write, or without `open`."""
