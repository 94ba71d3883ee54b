"""How far a conversion is: a bar on a terminal, else a line in the log every few seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from firstlight.base.log import get_logger

_SECONDS = 10.0


@contextmanager
def shown_progress(description: str, num_bytes: int) -> Iterator[Callable[[int], None]]:
    """A function that is told the bytes done so far, of `num_bytes`."""
    if not sys.stderr.isatty():
        yield _Lines(description, num_bytes).tell
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=num_bytes)
        yield lambda done: progress.update(task, completed=done)


class _Lines:
    """Lines in the log; a short conversion has none."""

    def __init__(self, description: str, num_bytes: int) -> None:
        self._description = description
        self._num_bytes = num_bytes
        self._told_at = time.monotonic()

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told_at >= _SECONDS:
            self._told_at = now
            get_logger().info(
                "%s: %s of %s MB", self._description, f"{done / 1e6:,.0f}", f"{self._num_bytes / 1e6:,.0f}"
            )
