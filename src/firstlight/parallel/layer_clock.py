"""How long this rank computes in the forward passes of its layers.

Within FSDP's hooks, where weights are there: what a rank waits for those of others is not in it. Whatever talks to
other ranks within a layer, as tensor groups and exchanged tokens do, is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from firstlight.models.decoder import Decoder
from firstlight.models.family import units_of
from firstlight.parallel.device import Mark, mark, seconds_between


@dataclass(kw_only=True)
class LayerClock:
    """Of the stages of this rank, from when it is made on."""

    stages: Sequence[Decoder]
    device: torch.device
    _began: list[Mark] = field(default_factory=list)
    _passed: list[tuple[Mark, Mark]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for stage in self.stages:
            for unit in units_of(stage):
                unit.register_forward_pre_hook(self._enter)
                unit.register_forward_hook(self._leave, prepend=True)

    def forget(self) -> None:
        """Begin anew."""
        self._began, self._passed = [], []

    def seconds(self) -> float:
        """Since then. Waits for the device."""
        return sum(seconds_between(*pair) for pair in self._passed)

    def _enter(self, _unit: nn.Module, _arguments: object) -> None:
        self._began.append(mark(self.device))

    def _leave(self, _unit: nn.Module, _arguments: object, _output: Any) -> None:
        self._passed.append((self._began.pop(), mark(self.device)))
