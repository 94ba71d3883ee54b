"""The progress of reading a corpus, drawn on a terminal and nowhere else."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


class Advance(Protocol):
    """Called with the totals so far."""

    def __call__(self, *, num_bytes: int, num_tokens: int) -> None: ...


@contextmanager
def shown_progress(description: str, num_bytes: int) -> Iterator[Advance]:
    """A bar up to `num_bytes`, with MB, MB/s, tokens/s and the time left; silent when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield _silent
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
        task = progress.add_task(description, total=num_bytes, rate="")

        def advance(*, num_bytes: int, num_tokens: int) -> None:
            elapsed = progress.tasks[0].elapsed or 0.0
            rate = f"{num_tokens / elapsed:,.0f} tokens/s" if elapsed else ""
            progress.update(task, completed=num_bytes, rate=rate)

        yield advance


def _silent(*, num_bytes: int, num_tokens: int) -> None:
    del num_bytes, num_tokens
