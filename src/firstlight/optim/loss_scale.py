"""By what the loss is multiplied for the backward pass, so that gradients in float16 keep what is small."""

from collections.abc import Mapping
from typing import Protocol

from firstlight.config.precision import Fp16Precision

_LARGEST = 2.0**127
"""Gradients multiplied by more than fp32 holds are never finite."""


class LossScale(Protocol):
    """The optimizer divides gradients by `value`, and tells whether it applied them."""

    @property
    def value(self) -> float:
        """For the step to come."""

    def observe(self, *, applied: bool) -> None:
        """Once a step; all ranks tell the same."""

    def state_dict(self) -> dict[str, float]:
        """What a restarted run must know."""

    def load_state_dict(self, state: Mapping[str, float]) -> None: ...


class DynamicLossScale:
    """See LossScale. Grows after `growth_steps` applied steps in a row, backs off at each that is not
    (arXiv:1710.03740; the rules of torch.amp.GradScaler)."""

    def __init__(self, config: Fp16Precision) -> None:
        self._config = config
        self._value = config.initial_scale
        self._applied_in_a_row = 0

    @property
    def value(self) -> float:
        """See LossScale."""
        return self._value

    def observe(self, *, applied: bool) -> None:
        """See LossScale."""
        if not applied:
            self._value = max(self._value * self._config.backoff_factor, self._config.min_scale)
            self._applied_in_a_row = 0
            return
        self._applied_in_a_row += 1
        if self._applied_in_a_row >= self._config.growth_steps:
            self._value = min(self._value * self._config.growth_factor, _LARGEST)
            self._applied_in_a_row = 0

    def state_dict(self) -> dict[str, float]:
        """See LossScale."""
        return {"value": self._value, "applied_in_a_row": self._applied_in_a_row}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """See LossScale."""
        self._value, self._applied_in_a_row = float(state["value"]), int(state["applied_in_a_row"])


class NoLossScale:
    """See LossScale. The loss as it is."""

    value = 1.0

    def observe(self, *, applied: bool) -> None:
        """See LossScale."""

    def state_dict(self) -> dict[str, float]:
        """See LossScale."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """See LossScale."""
