"""Ranks without processes: threads that meet, and one rank whose peers answer as they are told."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")

_TIMEOUT_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class ToldPeers:
    """Rank `rank` of `size`; what the others say, where a collective asks for it."""

    others_say: bool
    rank: int = 0
    size: int = 2
    asked: list[str] = field(default_factory=list)

    def barrier(self) -> None:
        self.asked.append("barrier")

    def sum(self, values: Sequence[float]) -> list[float]:
        self.asked.append("sum")
        return [float(value) for value in values]

    def all_true(self, value: bool, /) -> bool:
        self.asked.append("all_true")
        return value and self.others_say

    def any_true(self, value: bool, /) -> bool:
        self.asked.append("any_true")
        return value or self.others_say


class _Meeting:
    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=_TIMEOUT_SECONDS)
        self.values: list[Any] = [None] * size

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = value
        self.barrier.wait()
        values = list(self.values)
        self.barrier.wait()
        return values


class ThreadPeers:
    """One of several ranks that are threads. A rank that does not call what the others call ends them all."""

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self.rank = rank
        self.size = meeting.size
        self._meeting = meeting

    def barrier(self) -> None:
        self._exchange("barrier", 0.0)

    def sum(self, values: Sequence[float]) -> list[float]:
        return [float(sum(column)) for column in zip(*self._exchange("sum", list(values)), strict=True)]

    def all_true(self, value: bool, /) -> bool:
        return all(self._exchange("all_true", value))

    def any_true(self, value: bool, /) -> bool:
        return any(self._exchange("any_true", value))

    def _exchange(self, collective: str, value: Any) -> list[Any]:
        said = self._meeting.exchange(self.rank, (collective, value))
        assert {name for name, _ in said} == {collective}, f"ranks call different collectives: {said}"
        return [one for _, one in said]


def on_ranks(size: int, act: Callable[[ThreadPeers], Result]) -> list[Result | BaseException]:
    """Run `act` as each of `size` ranks; what each returned or raised, by rank."""
    meeting = _Meeting(size)

    def one(rank: int) -> Result | BaseException:
        try:
            return act(ThreadPeers(rank, meeting))
        except BaseException as error:  # noqa: BLE001  # the root of a thread
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))
