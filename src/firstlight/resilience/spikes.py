"""Spikes of the loss: it lies far above what was usual in the steps before. Plain numbers, the same on every rank."""

import statistics
from collections.abc import Mapping
from typing import Any

from firstlight.base.report import StepReport
from firstlight.config.rewind import SpikeConfig

_LEAST_DEVIATION = 1e-3
"""Of the mean: a loss that hardly moves is no reason to call its last digit a spike."""


class Spikes:
    """Learns what is usual from the losses that it is shown, and says which are not. Without a section none are."""

    def __init__(self, config: SpikeConfig | None) -> None:
        self._config = config
        self._losses: list[float] = []
        self._of: tuple[int, int] = (0, 0)
        """Phase and sequence length of the losses."""

    def limit_broken_by(self, report: StepReport) -> float | None:
        """The largest usual loss when that of an applied step lies above it; None when it does not, and counts."""
        if self._config is None:
            return None
        part = (report.phase, report.sequence_length)
        if part != self._of:
            self._losses, self._of = [], part
        loss = report.loss.total
        if len(self._losses) == self._config.window:
            mean, deviation = statistics.fmean(self._losses), statistics.stdev(self._losses)
            limit = mean + self._config.deviations * max(deviation, _LEAST_DEVIATION * abs(mean))
            if not loss <= limit:
                return limit
        self._losses = [*self._losses, loss][-self._config.window :]
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on must know."""
        return {"losses": list(self._losses), "of": list(self._of)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; an empty state is that of a start."""
        self._losses = [float(loss) for loss in state.get("losses", ())][-self._config.window :] if self._config else []
        phase, length = state.get("of", (0, 0))
        self._of = phase, length
