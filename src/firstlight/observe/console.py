"""Shows a run on standard output: one line for each record, and on a terminal a progress bar below the lines."""

import sys
from typing import TextIO

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from firstlight.observe.quantity import in_bytes, in_duration, in_percent, in_step_time
from firstlight.observe.record import LOSS_PREFIX, MAX_VIO, Record, held_out_sets, parts_of

_GAP = "  "


class Console:
    """A sink for people. Parts that a record does not have are left out of its line."""

    def __init__(self, *, total_steps: int, stream: TextIO | None = None, is_terminal: bool | None = None) -> None:
        self._total_steps = total_steps
        self._stream = sys.stdout if stream is None else stream
        self._is_terminal = self._stream.isatty() if is_terminal is None else is_terminal
        self._bar: _Bar | None = None

    def open(self, step: int, /) -> None:
        """Start the bar at `step`, if this is a terminal."""
        if self._is_terminal:
            self._bar = _Bar(self._stream, step, self._total_steps)

    def write_step(self, record: Record, /) -> None:
        """Print the line of a step."""
        self._print(step_line(record, total_steps=self._total_steps))
        if self._bar:
            self._bar.move(record)

    def write_evaluation(self, record: Record, /) -> None:
        """Print a line for each held-out set of the record."""
        for line in evaluation_lines(record):
            self._print(line)

    def close(self) -> None:
        """Take the bar away; the lines stay."""
        if self._bar:
            self._bar.close()
            self._bar = None

    def _print(self, line: str) -> None:
        if self._bar:
            self._bar.print_above(line)
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


class _Bar:
    """rich's progress bar, below the lines that are printed."""

    def __init__(self, stream: TextIO, step: int, total_steps: int) -> None:
        self._progress = Progress(
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=Terminal(file=stream, force_terminal=True),
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("", total=total_steps, completed=step, eta="")
        self._progress.start()

    def move(self, record: Record) -> None:
        eta = f"eta {in_duration(record['eta_seconds'])}" if "eta_seconds" in record else ""
        self._progress.update(self._task, completed=record["step"], eta=eta)

    def print_above(self, line: str) -> None:
        # soft_wrap: a long line is the terminal's to break, so that copied text stays one line
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()
