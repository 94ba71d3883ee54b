"""Watches some steps with torch's profiler: a Chrome trace for each rank, and a table of the longest operations."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from firstlight.base.log import get_logger
from firstlight.config.monitor import ProfileConfig
from firstlight.observe.events import EventLog
from firstlight.observe.quantity import in_percent, in_step_time

PROFILE_FOLDER = "profile"

_COMMUNICATION = ("nccl", "gloo", "c10d", "hccl", "mpi:")


@dataclass(frozen=True, kw_only=True)
class Row:
    """An operation of the watched steps: its own seconds, without what it calls, and how often it ran."""

    name: str
    seconds: float
    calls: int


class TorchProfile:
    """Profiles the configured steps of one rank; see `observe.recorder.StepProfile`."""

    def __init__(
        self,
        config: ProfileConfig,
        folder: Path,
        *,
        rank: int,
        events: EventLog,
        snapshot_memory: Callable[[Path], bool] = lambda _path: False,
    ) -> None:
        self._config = config
        self._folder = folder
        self._rank = rank
        self._events = events
        self._snapshot_memory = snapshot_memory
        self._profiler: Any = None
        self._started = 0.0
        self._steps = 0

    def before_step(self, step: int) -> None:
        """Begin with the first step that is to be watched."""
        if step == self._config.first_step:
            activities = [ProfilerActivity.CPU]
            if torch.accelerator.is_available():
                activities = list(torch.profiler.supported_activities())
            self._profiler = profile(
                activities=activities, profile_memory=self._config.memory, record_shapes=False, acc_events=True
            )
            self._profiler.start()
            self._started = time.perf_counter()

    def after_step(self, step: int) -> None:
        """End after the last one, and write."""
        if self._profiler is None:
            return
        self._steps += 1
        if self._steps >= self._config.num_steps:
            self._finish(step)

    def span(self, name: str) -> AbstractContextManager[object]:
        """A range of its own in the trace."""
        return nullcontext() if self._profiler is None else record_function(f"firstlight: {name}")

    def close(self) -> None:
        """Write what has been watched of an unfinished window."""
        if self._profiler is not None:
            self._finish(self._config.first_step + self._steps - 1)

    def _finish(self, step: int) -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        seconds = time.perf_counter() - self._started
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        trace = self._folder / f"rank-{self._rank}.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(trace))
            has_snapshot = self._config.memory and self._snapshot_memory(
                self._folder / f"rank-{self._rank}-memory.json"
            )
        except OSError as error:
            get_logger().warning("%s cannot be written, the run goes on: %s", trace, error)
            return
        rows = longest(profiler.key_averages())
        lines = table(rows[: self._config.top_spans], seconds=seconds, steps=max(self._steps, 1))
        get_logger().info("profile of %d steps: %s\n%s", self._steps, trace, "\n".join(lines))
        if self._config.memory and not has_snapshot:
            get_logger().info("profile: this device gives no snapshot of its memory; the trace has the allocations")
        facts = {"trace": str(trace), "steps": self._steps, "communication_seconds": communication_seconds(rows)}
        self._events.add("profile", step, f"trace of {self._steps} steps: {trace.name}", facts)


def longest(averages: Sequence[Any]) -> list[Row]:
    """The operations that took time of their own, the longest first: on the device where there is one, else on CPU."""
    on_device = [row for row in (_row(one, "self_device_time_total") for one in averages) if row.seconds > 0]
    rows = on_device or [row for row in (_row(one, "self_cpu_time_total") for one in averages) if row.seconds > 0]
    return sorted(rows, key=lambda row: row.seconds, reverse=True)


def communication_seconds(rows: Sequence[Row]) -> float:
    """Of the operations that move data between ranks, by their names. Part of it may be hidden behind computation."""
    return sum(row.seconds for row in rows if row.name.lower().startswith(_COMMUNICATION))


def table(rows: Sequence[Row], *, seconds: float, steps: int) -> list[str]:
    """Lines: time per step, share of the time that was watched, calls per step, name."""
    lines = [f"{'per step':>10} {'share':>6} {'calls':>7}  operation"]
    lines += [
        f"{in_step_time(row.seconds / steps):>10} {in_percent(row.seconds / seconds):>6} "
        f"{row.calls / steps:>7.0f}  {row.name}"
        for row in rows
    ]
    return lines


def _row(average: Any, attribute: str) -> Row:
    return Row(name=str(average.key), seconds=getattr(average, attribute, 0) / 1e6, calls=int(average.count))
