"""What the last step has left on this rank for those who measure: sums that are there anyway, and the pipeline's clock.

Nothing here waits for the device until it is asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from firstlight.parallel.device import Mark, mark, seconds_between


@dataclass(kw_only=True)
class BusyClock:
    """How long the stages of this rank compute within a step of the pipeline; the rest is the bubble and the wires."""

    device: torch.device
    _whole: list[Mark] = field(default_factory=list)
    _busy: list[tuple[Mark, Mark]] = field(default_factory=list)

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step through the pipeline; the one before is forgotten."""
        self._busy = []
        begin = mark(self.device)
        yield
        self._whole = [begin, mark(self.device)]

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A forward or backward pass of one micro-batch through a stage."""
        begin = mark(self.device)
        yield
        self._busy.append((begin, mark(self.device)))

    def seconds(self) -> tuple[float, float]:
        """Computing, and altogether, in the last step."""
        if not self._whole:
            return 0.0, 0.0
        return sum(seconds_between(*pair) for pair in self._busy), seconds_between(*self._whole)


@dataclass(kw_only=True)
class LastStep:
    """Of the last forward and backward pass on this rank."""

    own_lm: Tensor | None = None
    """The sum of its next-token losses; zero on a stage that has none."""
    own_targets: Tensor | None = None
    """Unmasked targets of its rows."""
    load_me: Tensor | None = None
    """Tokens per expert of each mixture layer [m, e], over all ranks; None without experts."""
    clock: BusyClock | None = None
    """Of a pipeline."""
    summing: tuple[Mark, Mark] | None = None
    """Before and after the collective that adds the losses up, where this rank waits for those that are behind."""

    def wait_seconds(self) -> float:
        """How long this rank was in that collective."""
        return 0.0 if self.summing is None else seconds_between(*self.summing)
