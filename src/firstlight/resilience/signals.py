"""Requests to stop from outside: SIGTERM and SIGUSR1, as schedulers send them before they take a node."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Remembers that a stop was asked for. A second signal ends the process at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

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
        if self.signal_name is not None:
            raise SystemExit(128 + number)
        self.signal_name = signal.Signals(number).name
