"""Shows a run on standard output: a line for each record, and on a terminal a panel below the lines."""

import logging
import sys
from collections.abc import Callable
from typing import TextIO

from rich.console import Console as Terminal
from rich.live import Live

from firstlight.base.log import get_logger
from firstlight.observe.events import Event
from firstlight.observe.panel import RunPanel
from firstlight.observe.quantity import in_bytes, in_duration, in_percent, in_step_time
from firstlight.observe.record import LOSS_PREFIX, MAX_VIO, RankTable, Record, held_out_sets, parts_of

_GAP = "  "
_REDRAWN_PER_SECOND = 2

StepLines = Callable[[Record], list[str]]
"""The lines of a step's record."""


class Console:
    """A sink for people. Parts that a record does not have are left out of its line."""

    def __init__(
        self,
        *,
        total_steps: int,
        stream: TextIO | None = None,
        is_terminal: bool | None = None,
        step_lines: StepLines | None = None,
    ) -> None:
        self._total_steps = total_steps
        self._stream = sys.stdout if stream is None else stream
        self._is_terminal = self._stream.isatty() if is_terminal is None else is_terminal
        self._step_lines = step_lines or (lambda record: [step_line(record, total_steps=total_steps)])
        self._panel = RunPanel(total_steps=total_steps)
        self._live: Live | None = None

    def open(self, step: int, /) -> None:
        """Show the panel at `step`, if this is a terminal."""
        self._panel.begin(step)
        if self._is_terminal:
            terminal = Terminal(file=self._stream, force_terminal=True)
            self._live = Live(self._panel, console=terminal, transient=True, refresh_per_second=_REDRAWN_PER_SECOND)
            self._live.start()
            self._log_above()

    def write_step(self, record: Record, /) -> None:
        """Print the lines of a step."""
        self._panel.take_step(record)
        for line in self._step_lines(record):
            self._print(line)

    def write_evaluation(self, record: Record, /) -> None:
        """Print a line for each held-out set of the record."""
        self._panel.take_evaluation(record)
        for line in evaluation_lines(record):
            self._print(line)

    def write_ranks(self, _step: int, _table: RankTable, /) -> None:
        """Not shown: the records have the slowest rank."""

    def take_event(self, event: Event) -> None:
        """Show on the panel what happened; the log has its own line."""
        self._panel.take_event(event)

    def close(self) -> None:
        """Take the panel away; the lines stay."""
        if self._live:
            self._live.stop()
            self._live = None
            self._log_above()

    def _log_above(self) -> None:
        """Lines of the log on the same terminal go above the panel: rich has put itself in the place of stderr."""
        for handler in get_logger().handlers:
            if isinstance(handler, logging.StreamHandler) and sys.__stderr__ is not None and sys.__stderr__.isatty():
                handler.setStream(sys.stderr)

    def _print(self, line: str) -> None:
        if self._live:
            # soft_wrap: a long line is the terminal's to break, so that copied text stays one line
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()


def step_line(record: Record, *, total_steps: int) -> str:
    """`step   20/400  loss 5.1234  lr 9.8e-04  grad 0.87  3,214 tok/s  637 ms/step  mfu 41%  mem 1.2 GB  eta 1m32s`."""
    width = len(str(total_steps))
    parts = [
        f"step {record['step']:>{width}.0f}/{total_steps}",
        f"loss {record['loss']:7.4f}",
        _loss_parts(record),
        f"lr {record['learning_rate']:.1e}" if "learning_rate" in record else "",
        f"grad {record['grad_norm']:.2f}" if "grad_norm" in record else "",
        f"max_vio {record[MAX_VIO]:.2f}" if MAX_VIO in record else "",
        f"skipped {record['skipped_steps']:.0f}" if record.get("skipped_steps") else "",
        *_speed_parts(record),
    ]
    return _GAP.join(part for part in parts if part)


def evaluation_lines(record: Record) -> list[str]:
    """`step 400  held-out wiki: loss 3.2100  perplexity 24.8  1.230 bits/byte`, one for each held-out set."""
    lines = []
    for name, figures in held_out_sets(record).items():
        parts = [f"step {record['step']:.0f}", f"held-out {name}: loss {figures['loss']:.4f}"]
        if "perplexity" in figures:
            parts.append(f"perplexity {figures['perplexity']:.4g}")
        if "bits_per_byte" in figures:
            parts.append(f"{figures['bits_per_byte']:.3f} bits/byte")
        if "perplexity_per_byte" in figures:
            parts.append(f"perplexity/byte {figures['perplexity_per_byte']:.4g}")
        lines.append(_GAP.join(parts))
    return lines


def _loss_parts(record: Record) -> str:
    """Nothing when there is a single part: it is the total."""
    parts = parts_of(record, LOSS_PREFIX)
    return "(" + " ".join(f"{name} {value:.2f}" for name, value in parts.items()) + ")" if len(parts) > 1 else ""


def _speed_parts(record: Record) -> list[str]:
    return [
        f"{record['tokens_per_second']:,.0f} tok/s" if "tokens_per_second" in record else "",
        f"{in_step_time(record['step_seconds'])}/step" if "step_seconds" in record else "",
        f"mfu {in_percent(record['mfu'])}" if "mfu" in record else "",
        f"mem {in_bytes(record['memory_bytes'])}" if record.get("memory_bytes") else "",
        f"eta {in_duration(record['eta_seconds'])}" if record.get("eta_seconds") else "",
    ]
