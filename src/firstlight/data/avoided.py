"""Samples that a run leaves out, and which sample is then the n-th. Pure arithmetic."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Ranges = tuple[tuple[int, int], ...]
"""(first, end) of each, ascending; they do not touch."""


class Avoided:
    """Ranges of sample numbers that are left out. What lies behind them in their cut comes sooner; at the end of the
    cut its first samples come once more, so that a run has as many samples as without: no cut takes of another."""

    def __init__(self, ranges: Iterable[Sequence[int]] = ()) -> None:
        self.ranges: Ranges = _joined((first, end) for first, end in ranges)

    def joined(self, ranges: Iterable[Sequence[int]]) -> "Avoided":
        """These and others."""
        return Avoided([*self.ranges, *ranges])

    def covers(self, first: int, end: int) -> bool:
        """Whether all of a range is left out."""
        return any(begin <= first and end <= stop for begin, stop in self.ranges)

    def numbers(self, places: NDArray[np.int64], cut: range) -> NDArray[np.int64]:
        """The numbers of the samples at these places of a run; all of them are in `cut`, which places and numbers have
        in common. Raises ValueError when nothing of it is left."""
        left = self.num_left(cut)
        if not left:
            raise ValueError(f"all samples from {cut.start} to {cut.stop - 1} are left out")
        numbers = cut.start + (places - cut.start) % left
        for first, end in self._within(cut):
            numbers = np.where(numbers >= first, numbers + (end - first), numbers)
        return numbers

    def ahead(self, place: int, cut: range) -> int:
        """All samples of `cut` from this number on are still to come at `place`; its end when some come once more."""
        if place - cut.start >= self.num_left(cut):
            return cut.stop
        return int(self.numbers(np.array([place], np.int64), cut)[0])

    def num_left(self, cut: range) -> int:
        """The samples of `cut` that are not left out."""
        return len(cut) - sum(end - first for first, end in self._within(cut))

    def _within(self, cut: range) -> list[tuple[int, int]]:
        bounded = ((max(first, cut.start), min(end, cut.stop)) for first, end in self.ranges)
        return [(first, end) for first, end in bounded if first < end]


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for first, end in sorted(one for one in ranges if one[1] > one[0]):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return tuple(joined)
