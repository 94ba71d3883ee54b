"""Work beside the caller's: items that are made ahead of it, and calls that are done behind it, each by one thread."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

_DEPTH = 2
"""Items made ahead, and calls that wait: enough to even out, few as each may be large."""
_Item = TypeVar("_Item")


def ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """`items`, made by a thread up to two ahead of the caller; what making them raises is raised here."""
    end = object()
    with ThreadPoolExecutor(1, "ahead") as pool:
        made: deque[Future[_Item | object]] = deque(pool.submit(next, items, end) for _ in range(_DEPTH))
        try:
            while (item := made.popleft().result()) is not end:
                made.append(pool.submit(next, items, end))
                yield item  # type: ignore[misc]  # `end` is no item
        finally:
            for future in made:
                future.cancel()


class Behind(Generic[_Item]):
    """A context manager that calls `work` with one item after another, in a thread, in the order of `give`."""

    def __init__(self, work: Callable[[_Item], None]) -> None:
        self._work = work
        self._given: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, "behind")

    def __enter__(self) -> "Behind[_Item]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._given:
                self._given.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def give(self, item: _Item) -> None:
        """Work on `item` later; waits while two calls wait. Raises what an earlier call raised."""
        while len(self._given) >= _DEPTH or (self._given and self._given[0].done()):
            self._given.popleft().result()
        self._given.append(self._pool.submit(self._work, item))
