"""What a sink is, and the sinks that a configuration asks for."""

from pathlib import Path
from typing import Protocol

from firstlight.config.training import MonitorConfig
from firstlight.observe.console import Console
from firstlight.observe.jsonl import METRICS_FILE, JsonLines
from firstlight.observe.record import Record
from firstlight.observe.tensorboard import TensorBoard

TENSORBOARD_FOLDER = "tensorboard"


class Sink(Protocol):
    """A place that records go to. A write may raise OSError."""

    def open(self, step: int, /) -> None:
        """Begin, or continue after `step`: what was written of later steps no longer holds."""

    def write_step(self, record: Record, /) -> None:
        """Take a step's record (names: `record`)."""

    def write_evaluation(self, record: Record, /) -> None:
        """Take an evaluation's record."""

    def close(self) -> None:
        """Let go of files; also after a failed write, or without `open`."""


def sinks_for(config: MonitorConfig, *, folder: Path, total_steps: int) -> tuple[Sink, ...]:
    """The sinks that `config` names, writing into the run's `folder`. Only one rank should have them."""
    sinks: dict[str, Sink] = {
        "console": Console(total_steps=total_steps),
        "jsonl": JsonLines(folder / METRICS_FILE),
        "tensorboard": TensorBoard(folder / TENSORBOARD_FOLDER),
    }
    return tuple(sinks[name] for name in config.sinks)
