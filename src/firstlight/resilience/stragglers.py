"""Which rank is slower than the others, by what each takes for its own work. Plain numbers, the same on every rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WINDOW = 6
"""Steps that are looked at together. A rank is named after two such windows, so within 17 steps."""

_WINDOWS = 2
_LEAST_SHARE = 0.05
"""Of a step: what a rank takes longer than the others must be worth a word."""


@dataclass(frozen=True, kw_only=True)
class Slow:
    """Rank `rank` takes `seconds` a step for what takes the others `usual_seconds`; or it did, and no longer does."""

    rank: int
    seconds: float
    usual_seconds: float
    has_ended: bool = False


class Stragglers:
    """Sees one window after the other. Ranks are compared with those that do the same work."""

    def __init__(self, ratio: float, kinds: Sequence[int]) -> None:
        """A rank is slow that takes `ratio` times as long as the others. `kinds`: of the work of each rank."""
        self._ratio = ratio
        self._others = [
            [other for other, one in enumerate(kinds) if one == kind and other != rank]
            for rank, kind in enumerate(kinds)
        ]
        self._windows = [0] * len(kinds)
        """Windows in a row in which a rank was slow."""

    def see(self, seconds: Sequence[float], step_seconds: float) -> list[Slow]:
        """What is new after a window: `seconds` of each rank's own work in a step that took `step_seconds`."""
        news = []
        for rank, others in enumerate(self._others):
            if not others:
                continue
            usual = median(seconds[other] for other in others)
            excess, before = seconds[rank] - usual, self._windows[rank]
            is_slow = seconds[rank] > self._ratio * usual and excess > _LEAST_SHARE * step_seconds
            self._windows[rank] = before + 1 if is_slow else 0
            told = Slow(rank=rank, seconds=seconds[rank], usual_seconds=usual, has_ended=not is_slow)
            if self._windows[rank] == _WINDOWS or (not is_slow and before >= _WINDOWS):
                news.append(told)
        return news


def typical(seconds: Sequence[float]) -> float:
    """The mean without the largest: one pause makes no slow rank, one in every other step does."""
    return sum(sorted(seconds)[:-1]) / max(len(seconds) - 1, 1)
