"""Ranks that are not alike are named before they train."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from firstlight.base.errors import InputError
from firstlight.base.peers import Alone
from firstlight.resilience.agreement import require_same


class Threads(Alone):
    """Ranks that are threads of this process and sum what each has put on a shared table."""

    def __init__(self, rank: int, table: list[list[float]], barrier: Barrier) -> None:
        self.rank, self.size = rank, len(table)
        self._table, self._barrier = table, barrier

    def sum(self, values: Sequence[float]) -> list[float]:
        self._barrier.wait()
        self._table[self.rank] = list(values)
        self._barrier.wait()
        return [sum(column) for column in zip(*self._table, strict=True)]


def outcomes(facts: Sequence[Mapping[str, str]]) -> list[str]:
    """What each rank says."""
    table: list[list[float]] = [[] for _ in facts]
    barrier = Barrier(len(facts))

    def one(rank: int) -> str:
        try:
            require_same(Threads(rank, table, barrier), facts[rank])
        except InputError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(facts)) as pool:
        return list(pool.map(one, range(len(facts))))


def test_ranks_that_are_alike_go_on() -> None:
    assert outcomes([{"the code": "a", "the data": "b"}] * 4) == [""] * 4


def test_every_rank_says_which_differ_and_in_what() -> None:
    usual = {"the code": "a", "the data": "b", "the versions": "c"}
    said = outcomes([usual, usual, usual | {"the code": "x"}, usual | {"the versions": "y"}, usual])
    assert set(said) == {
        "the ranks are not alike:\n"
        "  the code of rank(s) 2 is not that of the others\n"
        "  the versions of rank(s) 3 is not that of the others"
    }
