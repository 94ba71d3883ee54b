"""When a save is due: by steps, by minutes, or as often as pays for the failures that are expected."""

from collections.abc import Callable

from firstlight.base.log import get_logger
from firstlight.config.training import AUTO, CheckpointConfig
from firstlight.layout.save_interval import young_daly_seconds

_TOLD_CHANGE = 1.25
"""A new interval is worth a line when it is so many times the last one, or the other way round."""


class SaveInterval:
    """What the first rank's clock says, for all ranks to agree on."""

    def __init__(self, config: CheckpointConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._started_at = clock()
        self._cost: float | None = None
        self._told: float | None = None
        self._writing_seconds = 0.0

    def is_due_by_step(self, step: int) -> bool:
        """The same on every rank, without asking."""
        every = (self._config.save_every_steps, self._config.export_every_steps)
        return any(one != AUTO and one > 0 and step % one == 0 for one in every)

    @property
    def asks_the_clock(self) -> bool:
        """Whether time has a say."""
        return self._config.save_every_steps == AUTO or self._config.save_every_minutes > 0

    def is_due_by_time(self) -> bool:
        """Whether this rank's clock says so. Without a measured save, `auto` makes one at once."""
        elapsed = self._clock() - self._started_at
        if self._config.save_every_minutes > 0 and elapsed >= 60 * self._config.save_every_minutes:
            return True
        if self._config.save_every_steps != AUTO:
            return False
        return self._cost is None or elapsed >= self._auto_seconds(self._cost)

    def started(self) -> None:
        """A save begins now."""
        self._started_at = self._clock()

    def stalled(self) -> None:
        """The step may go on: what it has waited since `started` is what a save costs."""
        self._cost = self._clock() - self._started_at
        if self._config.save_every_steps == AUTO:
            self._tell(self._auto_seconds(self._cost), self._cost)

    def published(self) -> None:
        """The save that was started is on the disk."""
        self._writing_seconds = self._clock() - self._started_at

    def _auto_seconds(self, cost: float) -> float:
        """As often as pays, but no faster than a save is written: the next one would wait for it."""
        failures = 3600 * self._config.mean_hours_between_failures
        return max(young_daly_seconds(cost, failures), self._writing_seconds)

    def _tell(self, seconds: float, cost: float) -> None:
        if self._told is not None and seconds < _TOLD_CHANGE * self._told and self._told < _TOLD_CHANGE * seconds:
            return
        self._told = seconds
        get_logger().info(
            f"checkpoints every {seconds:,.0f} s: a save keeps the step waiting for {cost:.3f} s, and a failure is "
            f"expected every {self._config.mean_hours_between_failures:g} hours (Young/Daly)"
        )
