"""Reading with worker processes, which may die: one that does is started again and asked the same once more."""

import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.data.reader import Reply, Request
from firstlight.data.worker import Assignment, receive_reply, send, send_request

_MOST_RESTARTS = 3
"""In a row, of one worker, for one request."""
_SECONDS_TO_END = 5


class WorkerReader:
    """Request n goes to worker n modulo their number; each has one under way, so neither side can block the other."""

    def __init__(self, assignment: Assignment, num_workers: int) -> None:
        self.depth = num_workers
        self._workers = [_Worker(assignment, number) for number in range(num_workers)]
        self._next = 0
        self._under_way: deque[_Worker] = deque()

    def ask(self, request: Request) -> None:
        worker = self._workers[self._next]
        self._next = (self._next + 1) % len(self._workers)
        worker.ask(request)
        self._under_way.append(worker)

    def take(self) -> Reply:
        return self._under_way.popleft().take()

    def forget(self) -> None:
        while self._under_way:
            self._under_way.popleft().take()
        self._next = 0

    def go_to(self, number: int, position: Mapping[str, Any]) -> None:
        for worker in self._workers:
            worker.go_to(number, position)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


class _Worker:
    """One process, and what it must be told again when it is started again."""

    def __init__(self, assignment: Assignment, number: int) -> None:
        self._assignment = assignment
        self._number = number
        self._place: dict[str, Any] | None = None
        self._request: Request | None = None
        self._process = self._start()

    def ask(self, request: Request) -> None:
        self._request = request
        with suppress(OSError):  # it has ended: `take` finds out and starts another one
            send_request(self._input(), request)

    def take(self) -> Reply:
        for restart in range(_MOST_RESTARTS + 1):
            try:
                if restart:
                    self._restart()
                assert self._process.stdout is not None
                reply = receive_reply(self._process.stdout)
                self._request = None
                return reply
            except (EOFError, OSError):
                self._process.kill()
                code = self._process.wait()
                get_logger().warning(f"data worker {self._number} ended with exit code {code}; another one takes over")
        raise FirstlightError(
            f"data worker {self._number} ended {_MOST_RESTARTS + 1} times while reading the same batch; "
            "its message is above; data.loader.workers = 0 reads in the training process"
        )

    def go_to(self, number: int, position: Mapping[str, Any]) -> None:
        self._place = {"go_to": number, "position": dict(position)}
        with suppress(OSError):  # as in `ask`
            send(self._input(), self._place)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # it has ended with something unsent
                if pipe is not None:
                    pipe.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _restart(self) -> None:
        self.close()
        self._process = self._start()
        if self._request is not None:
            send_request(self._input(), self._request)

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "firstlight.data.worker"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        send(process.stdin, self._assignment.message())
        if self._place is not None:
            send(process.stdin, self._place)
        return process

    def _input(self) -> Any:
        assert self._process.stdin is not None
        return self._process.stdin
