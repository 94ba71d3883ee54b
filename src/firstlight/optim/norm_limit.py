"""The gradient norm above which a step is skipped, from the norms so far. Plain numbers, the same on every rank."""

import math
from collections.abc import Mapping
from statistics import median
from typing import Any, Protocol

from firstlight.config.norm_limit import AnyNormLimit, AverageNormLimit, FixedNormLimit, MedianNormLimit


class NormLimit(Protocol):
    """Says how large a norm may be, and learns from those that it is shown."""

    def now(self) -> float | None:
        """The largest norm that is let pass; None while all are."""

    def take(self, norm: float) -> None:
        """Count a finite norm. One that is above the limit counts as the limit: a single spike moves little, and a run
        whose norms have grown for good is not skipped for ever."""

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on must know."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; an empty state is that of a start."""


class FixedLimit:
    """See NormLimit. Always the same."""

    def __init__(self, config: FixedNormLimit) -> None:
        self._norm = config.norm

    def now(self) -> float | None:
        """See NormLimit."""
        return self._norm

    def take(self, norm: float) -> None:
        """See NormLimit. Nothing is learnt."""

    def state_dict(self) -> dict[str, Any]:
        """See NormLimit."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See NormLimit."""


class MedianLimit:
    """See NormLimit. Remembers the last norms."""

    def __init__(self, config: MedianNormLimit) -> None:
        self._config = config
        self._norms: list[float] = []

    def now(self) -> float | None:
        """See NormLimit."""
        if len(self._norms) < min(self._config.after_steps, self._config.window):
            return None
        return self._config.ratio * median(self._norms)

    def take(self, norm: float) -> None:
        """See NormLimit."""
        self._norms = [*self._norms, min(norm, _open(self.now()))][-self._config.window :]

    def state_dict(self) -> dict[str, Any]:
        """See NormLimit."""
        return {"norms": list(self._norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See NormLimit."""
        self._norms = [float(norm) for norm in state.get("norms", ())]


class AverageLimit:
    """See NormLimit. The average is that of the norms there were, without a start at zero."""

    def __init__(self, config: AverageNormLimit) -> None:
        self._config = config
        self._sum = 0.0
        self._steps = 0

    def now(self) -> float | None:
        """See NormLimit."""
        if self._steps < self._config.after_steps:
            return None
        return self._config.ratio * self._sum / (1 - self._config.decay**self._steps)

    def take(self, norm: float) -> None:
        """See NormLimit."""
        decay = self._config.decay
        self._sum = decay * self._sum + (1 - decay) * min(norm, _open(self.now()))
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """See NormLimit."""
        return {"sum": self._sum, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See NormLimit."""
        self._sum, self._steps = float(state.get("sum", 0.0)), int(state.get("steps", 0))


def norm_limit_of(config: AnyNormLimit) -> NormLimit:
    """The limit that the configuration names."""
    match config:
        case FixedNormLimit():
            return FixedLimit(config)
        case MedianNormLimit():
            return MedianLimit(config)
        case AverageNormLimit():
            return AverageLimit(config)


def _open(limit: float | None) -> float:
    return math.inf if limit is None else limit
