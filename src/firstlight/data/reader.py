"""Reading the samples that are asked for, at once or ahead of time on a thread."""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from firstlight.data.phased_dataset import Phased
from firstlight.data.samples import Dataset, Samples, position_of, read_samples, send_to


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """Sample `numbers` int64 [n], wanted as rows, and the number that follows those of all ranks."""

    numbers: NDArray[np.int64]
    next_number: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Reply:
    """The rows, and what to remember for going on at `next_number` (see `samples.position_of`)."""

    samples: Samples
    position: dict[str, Any]


class Reader(Protocol):
    """Answers requests in the order in which they were made."""

    depth: int
    """How many requests it is good to have under way."""

    def ask(self, request: Request) -> None: ...

    def take(self) -> Reply:
        """The answer to the oldest request that was not taken yet; errors of reading are raised here."""

    def forget(self) -> None:
        """Drop what was asked for and not taken."""

    def go_to(self, number: int, position: Mapping[str, Any]) -> None:
        """Go on at sample `number` from what a reply gave; nothing may be under way."""

    def close(self) -> None:
        """End what runs in the background."""


class ThreadReader:
    """Reads on a thread, so that batches are ready when they are asked for; depth 0: reads when they are taken."""

    def __init__(self, dataset: Dataset, depth: int) -> None:
        self.depth = max(1, depth)
        self._dataset = dataset
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="firstlight-data") if depth else None
        self._under_way: deque[Future[Reply] | Request] = deque()

    def ask(self, request: Request) -> None:
        self._under_way.append(self._pool.submit(answer, self._dataset, request) if self._pool else request)

    def take(self) -> Reply:
        oldest = self._under_way.popleft()
        return answer(self._dataset, oldest) if isinstance(oldest, Request) else oldest.result()

    def forget(self) -> None:
        while self._under_way:
            oldest = self._under_way.popleft()
            if isinstance(oldest, Future) and not oldest.cancel():
                oldest.exception()  # it runs: wait, so that nothing reads the data set any more

    def go_to(self, number: int, position: Mapping[str, Any]) -> None:
        send_to(self._dataset, number, position)

    def close(self) -> None:
        self.forget()
        if self._pool:
            self._pool.shutdown()


def answer(dataset: Dataset, request: Request) -> Reply:
    """Read what is asked for."""
    # By the sample before the next one: a rank may have no row of a small batch.
    length = dataset.length_at(request.next_number - 1) if isinstance(dataset, Phased) else None
    samples = read_samples(dataset, request.numbers, length)
    return Reply(samples=samples, position=position_of(dataset, request.next_number))
