"""Where numbers that are not finite came first: looked for after a step that had some, by computing it once more."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from firstlight.base.peers import Peers
from firstlight.base.report import LossReport, Update
from firstlight.data.stream import Batch
from firstlight.parallel.digests import say_to_all
from firstlight.parallel.engine import Engine
from firstlight.parallel.probe import Probe, Sign
from firstlight.train.state import TrainState

_NOTHING, _HELD, _GIVEN, _OWN = 0.0, 1.0, 2.0, 3.0
"""What a rank knows of it: nothing; a gradient of the update that it holds; what others gave it; its own work."""
_SHOWN_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What this rank has found."""

    what: str = ""
    kind: float = _NOTHING
    place: int = 0
    """Signs before it: ranks with the same layers go through the same ones."""


@dataclass(frozen=True, kw_only=True)
class NotFinite:
    """Of one rank; all ranks look together, and find the same."""

    engine: Engine
    probe: Probe
    """That tells what is finite."""
    peers: Peers
    micro_batch_size: int

    def is_due(self, loss: LossReport, update: Update) -> bool:
        """Whether a step had some. With a finite loss under a loss scale it is too large a scale, and no wonder."""
        is_overflow = update.loss_scale != 1 and math.isfinite(loss.total)
        return not math.isfinite(update.grad_norm) and not is_overflow

    def find(self, batch: Batch, state: TrainState) -> str:
        """Rank, layer and samples in words, after the update of a step on `batch` that was not applied. Collective."""
        found = self._of_signs(self.probe.signs_of(self.engine, batch), state.data.last_numbers())
        if found.kind == _NOTHING:
            found = _of_gradients(state.optimizer.gradient_squares())
        kinds, places = self._by_rank(found.kind), self._by_rank(float(found.place))
        worst = max(kinds)
        if worst == _NOTHING:
            return "and no rank has computed or holds any when it is asked again"
        first = min(place for place, kind in zip(places, kinds, strict=True) if kind == worst)
        ranks = [rank for rank, kind in enumerate(kinds) if (kind, places[rank]) == (worst, first)]
        device = next(self.probe.stages[0].parameters()).device
        what = say_to_all(found.what, ranks[0], device) if self.peers.size > 1 else found.what
        who = f"rank(s) {', '.join(map(str, ranks))}"
        if worst == _HELD:
            return f"which {who} had in {what}; computed again, its rows give none"
        return f"first in {what}, on {who}"

    def _of_signs(self, signs: Sequence[Sign], numbers: NDArray[np.int64]) -> _Found:
        """The first thing that came by and was not finite; of a pass through no pipeline its micro-batch is known."""
        is_finite = torch.stack([sign.digest for sign in signs]).tolist()
        place = next((place for place, fine in enumerate(is_finite) if not fine), None)
        if place is None:
            return _Found()
        sign = signs[place]
        first = sign.micro_batch * self.micro_batch_size
        is_whole = len(self.probe.stages) == 1 and self.probe.stages[0].stage.count == 1
        rows = numbers[first : first + self.micro_batch_size] if is_whole else numbers
        return _Found(what=sign.what + _shown(rows), kind=_OWN if sign.is_own else _GIVEN, place=place)

    def _by_rank(self, value: float) -> list[float]:
        slots = [0.0] * self.peers.size
        slots[self.peers.rank] = value
        return self.peers.sum(slots)


def _of_gradients(squares: Mapping[str, float]) -> _Found:
    """The gradient that the backward pass comes to first, of those that this rank holds a block of."""
    bad = [name for name, square in squares.items() if not math.isfinite(square)]
    return _Found(what=f"the gradient of {bad[-1]}", kind=_HELD) if bad else _Found()


def _shown(numbers: NDArray[np.int64]) -> str:
    """Samples by their numbers in the order of the data."""
    if not len(numbers):
        return ""
    if len(numbers) == 1 or numbers[-1] - numbers[0] >= len(numbers):
        more = " ..." if len(numbers) > _SHOWN_SAMPLES else ""
        return f" from sample(s) {', '.join(map(str, numbers[:_SHOWN_SAMPLES].tolist()))}{more}"
    return f" from samples {numbers[0]} to {numbers[-1]}"
