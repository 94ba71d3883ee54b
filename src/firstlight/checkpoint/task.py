"""One piece of work beside the main thread, whose error comes back to the one who asks for it."""

import threading
from collections.abc import Callable

from firstlight.base.errors import FirstlightError


class Task:
    """Does `act` in a thread of its own, or at once. The thread calls no collective."""

    def __init__(self, act: Callable[[], None] | None, *, in_background: bool) -> None:
        """Without an act there is nothing to do and nothing to wait for."""
        self._act = act
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if act is not None and in_background:
            # Not a daemon: a process that ends lets it write to its end.
            self._thread = threading.Thread(target=self._run, name="checkpoint")
            self._thread.start()
        elif act is not None:
            self._run()

    def wait(self) -> None:
        """Return when it is done."""
        if self._thread is not None:
            self._thread.join()

    def is_done(self) -> bool:
        """Whether it is, well or not."""
        return self._thread is None or not self._thread.is_alive()

    def failure(self) -> FirstlightError | None:
        """What it failed with; None when it went well. Any other exception is raised here."""
        if self._error is None or isinstance(self._error, FirstlightError):
            return self._error
        raise self._error

    def _run(self) -> None:
        try:
            if self._act is not None:
                self._act()
        except BaseException as error:  # noqa: BLE001  # the root of a thread; raised again by `failure`
            self._error = error
