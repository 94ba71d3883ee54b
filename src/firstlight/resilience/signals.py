"""Requests to stop from outside: SIGTERM and SIGUSR1, as schedulers send them before they take a node."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

SAME_REQUEST_SECONDS = 5.0
"""A scheduler signals every process, and a launcher its ranks again: together they are one request."""


class StopRequest:
    """Remembers that a stop was asked for. A later second signal ends the process at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.signal_name: str | None = None
        self._clock = clock
        self._asked_at = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for the length of the block; the previous handlers come back after it."""
        previous = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_name is None:
            self.signal_name, self._asked_at = signal.Signals(number).name, self._clock()
        elif self._clock() - self._asked_at > SAME_REQUEST_SECONDS:
            raise SystemExit(128 + number)
