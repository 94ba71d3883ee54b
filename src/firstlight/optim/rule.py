"""What an optimizer is made of: a rule by which some of the parameters are updated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one update is made with: a learning rate, and a decoupled decay that it multiplies."""

    learning_rate: float
    weight_decay: float


class UpdateRule(Protocol):
    """Gradients into updated parameters; norms, clipping and the count of updates are the optimizer's."""

    def update(self, rates: Rates) -> None:
        """Apply the gradients. Collective where a parameter lies on several ranks."""

    def tensors(self) -> dict[str, Tensor]:
        """The live moments, under `<moment>/<parameter>`; zero before the first update."""

    def load_updates(self, updates: int) -> None:
        """Continue after so many updates; the moments have been filled through `tensors`."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A parameter, and its ratios to the rates of an update."""

    name: str
    parameter: nn.Parameter
    learning_rate_ratio: float
    weight_decay_ratio: float


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """How moments are kept between updates, and whether torch's fused update is there."""

    in_host: bool
    in_bf16: bool
    is_fused: bool

    @property
    def is_elsewhere(self) -> bool:
        """Whether moments have to be brought for an update."""
        return self.in_host or self.in_bf16


Moments = Mapping[Tensor, dict[str, Tensor]]
"""The moments of each parameter by their names."""
