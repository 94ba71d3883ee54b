"""Whether a rank keeps pace with the others: each one's own work, compared every few steps."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from firstlight.base.log import get_logger
from firstlight.parallel.layer_clock import LayerClock
from firstlight.resilience.stragglers import WINDOW, Slow, Stragglers, typical
from firstlight.train.place import Place


@dataclass(kw_only=True)
class _Window:
    """Seconds of each step so far."""

    fetching: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)


class Pace:
    """Times this rank's fetching of data and the forward passes of its layers, in which it waits for no other.

    Whole steps tell nothing: within each the ranks wait for the slowest. Without a clock nothing is timed.
    """

    def __init__(self, clock: LayerClock | None, stragglers: Stragglers, place: Place) -> None:
        self._clock = clock
        self._stragglers = stragglers
        self._place = place
        self._window = _Window()
        self._began = 0.0

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """A step begins with what is done inside: data is fetched."""
        self._began = time.perf_counter()
        yield
        if self._clock is not None:
            self._window.fetching.append(time.perf_counter() - self._began)
            self._clock.forget()

    def computed(self, step: int) -> None:
        """Forward and backward of step `step` are done. A collective after every few steps."""
        if self._clock is None:
            return
        window = self._window
        window.computing.append(self._clock.seconds())
        window.steps.append(time.perf_counter() - self._began)
        if len(window.steps) == WINDOW:
            self._window = _Window()
            self._compare(step, window)

    def _compare(self, step: int, window: _Window) -> None:
        size, rank = self._place.peers.size, self._place.peers.rank
        fetching, computing = typical(window.fetching), typical(window.computing)
        slots = [0.0] * (3 * size)
        slots[rank], slots[size + rank], slots[2 * size + rank] = fetching, computing, typical(window.steps)
        summed = self._place.peers.sum(slots)
        fetched, computed, steps = summed[:size], summed[size : 2 * size], summed[2 * size :]
        own = [one + other for one, other in zip(fetched, computed, strict=True)]
        for slow in self._stragglers.see(own, max(steps)):
            self._tell(step, slow, fetched[slow.rank])

    def _tell(self, step: int, slow: Slow, fetching_seconds: float) -> None:
        if self._place.world.rank != 0:
            return
        ms, usual_ms = 1000 * slow.seconds, 1000 * slow.usual_seconds
        what = (
            f"{ms:.1f} ms a step for fetching data ({1000 * fetching_seconds:.1f}) and for its layers' forward passes"
        )
        if slow.has_ended:
            text = f"rank {slow.rank} is as fast as the others again: {what}, they {usual_ms:.1f}"
        else:
            text = f"rank {slow.rank} is slow: it takes {what}, the others {usual_ms:.1f}"
        get_logger().warning(f"step {step}: {text}")
        facts = {"rank": slow.rank, "seconds": slow.seconds, "usual_seconds": slow.usual_seconds}
        self._place.events.add("alert", step, text, facts)
        event = "slow_rank_ended" if slow.has_ended else "slow_rank"
        self._place.note_fault({"event": event, "step": step, **facts, "cause": text, "action": "none"})
