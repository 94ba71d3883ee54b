"""On how many nodes a run goes on when some are lost."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """At least `fewest` and at most `most` nodes, as far as they make a layout."""

    fewest: int
    most: int
    refusal: Callable[[int], str | None] = lambda _count: None
    """Why so many nodes make none; None when they do."""

    def best(self, count: int) -> int | None:
        """The most of `count` nodes that a run can go on with; None when there are too few."""
        fitting = (size for size in range(min(count, self.most), self.fewest - 1, -1) if self.refusal(size) is None)
        return next(fitting, None)

    def why_not(self, count: int) -> str:
        """Why a run cannot go on with so many, as the end of a message; nothing where it is not to."""
        if self.fewest == self.most:
            return ""
        if count < self.fewest:
            return f"; {count} are there, and resilience.min_nodes = {self.fewest}"
        fitting = [size for size in range(self.fewest, self.most) if self.refusal(size) is None]
        would = f"{', '.join(map(str, fitting))} or all {self.most}" if fitting else f"all {self.most}"
        return f"; {count} are there, which make no layout: {self.refusal(count)}; {would} would do"
