"""The progress of reading a corpus: a bar on a terminal, else a line in the log every few seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from firstlight.base.log import get_logger

_SECONDS = 10.0
"""Between two lines in the log."""


class Advance(Protocol):
    """Called with the totals so far, those of an earlier run that is gone on with included."""

    def __call__(self, *, num_bytes: int, num_tokens: int) -> None: ...


@contextmanager
def shown_progress(
    description: str, num_bytes: int, *, bytes_before: int = 0, tokens_before: int = 0
) -> Iterator[Advance]:
    """A bar up to `num_bytes`, with MB, MB/s, tokens/s and the time left; lines with the same where stderr is no
    terminal. `bytes_before` and `tokens_before` were done earlier, and are not of this run's speed."""
    if not sys.stderr.isatty():
        yield PlainProgress(description, num_bytes, bytes_before=bytes_before, tokens_before=tokens_before)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=num_bytes, completed=bytes_before, rate="")

        def advance(*, num_bytes: int, num_tokens: int) -> None:
            elapsed = progress.tasks[0].elapsed or 0.0
            rate = f"{(num_tokens - tokens_before) / elapsed:,.0f} tokens/s" if elapsed else ""
            progress.update(task, completed=num_bytes, rate=rate)

        yield advance


class PlainProgress:
    """Lines in the log, at most one in `seconds`; a short run has none."""

    def __init__(
        self,
        description: str,
        num_bytes: int,
        *,
        bytes_before: int = 0,
        tokens_before: int = 0,
        seconds: float = _SECONDS,
    ) -> None:
        self._description = description
        self._total = num_bytes
        self._bytes_before = bytes_before
        self._tokens_before = tokens_before
        self._seconds = seconds
        self._began_at = self._told_at = time.monotonic()

    def __call__(self, *, num_bytes: int, num_tokens: int) -> None:
        """Say how far it is, if it is time to."""
        now = time.monotonic()
        if now - self._told_at < self._seconds:
            return
        self._told_at = now
        elapsed = max(now - self._began_at, 1e-9)
        bytes_per_second = (num_bytes - self._bytes_before) / elapsed
        tokens_per_second = (num_tokens - self._tokens_before) / elapsed
        facts = [
            f"{num_bytes / 1e6:,.0f} of {self._total / 1e6:,.0f} MB",
            f"{bytes_per_second / 1e6:,.1f} MB/s",
            f"{tokens_per_second:,.0f} tokens/s",
        ]
        if bytes_per_second > 0 and self._total:
            facts.append(f"{max(0, self._total - num_bytes) / bytes_per_second:,.0f} s left")
        get_logger().info("%s: %s", self._description, ", ".join(facts))
