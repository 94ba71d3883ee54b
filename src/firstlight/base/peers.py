"""What a rank may ask of all the others; rooms without torch decide together through it."""

from collections.abc import Sequence
from typing import Protocol


class Peers(Protocol):
    """The ranks of the run. Every method is a collective: all ranks call it, in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def barrier(self) -> None:
        """Return once every rank has called."""

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sums over ranks, in float64; the same on every rank."""

    def all_true(self, value: bool, /) -> bool:
        """Whether `value` is true on every rank."""

    def any_true(self, value: bool, /) -> bool:
        """Whether `value` is true on some rank."""


class Alone:
    """The only rank of a run."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        return None

    def sum(self, values: Sequence[float]) -> list[float]:
        return [float(value) for value in values]

    def all_true(self, value: bool, /) -> bool:
        return value

    def any_true(self, value: bool, /) -> bool:
        return value
