"""A run at a glance for a terminal: progress, the course of the loss, speed, memory, and what happened last."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from firstlight.observe.events import Event
from firstlight.observe.quantity import in_bytes, in_count, in_duration, in_percent, in_step_time
from firstlight.observe.record import SECONDS_PREFIX, Record, held_out_sets

_BLOCKS = "▁▂▃▄▅▆▇█"
_KEPT_LOSSES = 240
_KEPT_EVENTS = 4
_SPARKLINE_WIDTH = 60


class RunPanel:
    """Takes records and events, and is drawn by rich, in a thread of its own; what is not known is left out."""

    def __init__(self, *, total_steps: int, title: str = "", clock: Callable[[], float] = time.time) -> None:
        self._total_steps = total_steps
        self._title = title
        self._clock = clock
        self._step = 0
        self._record: Record = {}
        self._losses: deque[float] = deque(maxlen=_KEPT_LOSSES)
        self._held_out: dict[str, float] = {}
        self._events: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self._checkpoint: Event | None = None

    def begin(self, step: int) -> None:
        """Stand at `step`, before any record."""
        self._step = step

    def take_step(self, record: Record) -> None:
        """A step's record."""
        self._record, self._step = record, int(record["step"])
        self._losses.append(record["loss"])

    def take_evaluation(self, record: Record) -> None:
        """An evaluation's record."""
        self._held_out |= {name: figures["loss"] for name, figures in held_out_sets(record).items()}

    def take_event(self, event: Event) -> None:
        """Something that happened."""
        if event.kind == "checkpoint":
            self._checkpoint = event
        self._events.append(event)

    def __rich__(self) -> RenderableType:
        rows: list[RenderableType] = [self._progress(), *self._loss(), *self._speed(), *self._happened()]
        return Panel(Group(*rows), title=self._title or None, title_align="left", border_style="dim")

    def _progress(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        share = self._step / self._total_steps if self._total_steps else 0.0
        record = self._record
        times = [f"{100 * share:.0f}%"]
        times += [f"{in_duration(record['elapsed_seconds'])} gone"] if "elapsed_seconds" in record else []
        times += [f"eta {in_duration(record['eta_seconds'])}"] if record.get("eta_seconds") else []
        bar = ProgressBar(total=max(self._total_steps, 1), completed=self._step)
        grid.add_row(f"step {self._step:,} of {self._total_steps:,}", bar, "  ".join(times))
        return grid

    def _loss(self) -> list[RenderableType]:
        if not self._losses:
            return []
        line = Text.assemble(
            ("loss ", "dim"), (f"{self._losses[-1]:.4f}", "bold"), "  ", (sparkline(self._losses), "cyan")
        )
        for name, loss in list(self._held_out.items()):
            line.append(f"  {name} {loss:.4f}")
        line.no_wrap = True
        return [line]

    def _speed(self) -> list[RenderableType]:
        record = self._record
        parts = [
            ("speed", f"{in_count(record['tokens_per_second'])} tokens/s" if "tokens_per_second" in record else ""),
            ("step", in_step_time(record["step_seconds"]) if "step_seconds" in record else ""),
            ("MFU", in_percent(record["mfu"]) if "mfu" in record else ""),
            ("memory", in_bytes(record["memory_bytes"]) if record.get("memory_bytes") else ""),
            ("data wait", self._data_wait()),
            ("grad norm", f"{record['grad_norm']:.3g}" if "grad_norm" in record else ""),
            ("learning rate", f"{record['learning_rate']:.2e}" if "learning_rate" in record else ""),
        ]
        shown = Text("  ").join(Text.assemble((f"{name} ", "dim"), value) for name, value in parts if value)
        return [shown] if shown.plain else []

    def _data_wait(self) -> str:
        """The share of a step in which training waits for data."""
        seconds, step = self._record.get(f"{SECONDS_PREFIX}data"), self._record.get("step_seconds")
        return in_percent(seconds / step) if seconds is not None and step else ""

    def _happened(self) -> list[RenderableType]:
        rows: list[RenderableType] = []
        if self._checkpoint is not None:
            ago = in_duration(max(self._clock() - self._checkpoint.time, 0.0))
            rows.append(Text.assemble(("last checkpoint ", "dim"), f"step {self._checkpoint.step:,}, {ago} ago"))
        for event in list(self._events):
            at = time.strftime("%H:%M:%S", time.localtime(event.time))
            style = "bold red" if event.kind in ("alert", "fault", "skip", "rewind") else ""
            rows.append(Text.assemble((f"{at} {event.kind} ", "dim"), (event.text, style), overflow="ellipsis"))
        return rows


def sparkline(values: Sequence[float] | deque[float], width: int = _SPARKLINE_WIDTH) -> str:
    """The course of `values` in at most `width` blocks, each the mean of its share; what is not finite is a gap."""
    every = list(values)
    count = min(width, len(every))
    bins = [every[index * len(every) // count : (index + 1) * len(every) // count] for index in range(count)]
    means = [_mean(one) for one in bins]
    finite = [mean for mean in means if mean is not None]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if mean is None else _BLOCKS[round((mean - low) * scale)] for mean in means)


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
