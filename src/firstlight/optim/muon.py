"""Muon: the momentum of each matrix, orthogonalised whole, wherever its blocks lie."""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from firstlight.config.optimizer import MUON_MOMENTS, MuonConfig
from firstlight.optim.kept_moments import KeptMoments, parts_of
from firstlight.optim.newton_schulz import orthogonalised
from firstlight.optim.rule import Keeping, Member, Rates
from firstlight.optim.whole_matrix import block_of, on_whole

(MOMENT,) = MUON_MOMENTS
UP_PROJECTIONS = ("q_b_proj.weight", "q_proj.weight", "kv_b_proj.weight")


class Muon:
    """See UpdateRule. W <- W (1 - rate decay) - rate scale sqrt(max(m, n)) orthogonalised(momentum), arXiv:2502.16982,
    equation 4. Parameters are matrices [m, n] or stacks of them [e, m, n]."""

    def __init__(self, members: Sequence[Member], config: MuonConfig, keeping: Keeping, num_heads: int) -> None:
        self._config = config
        self._num_heads = num_heads
        self._state = {m.parameter: {MOMENT: torch.zeros_like(m.parameter)} for m in members}
        by_id = {id(member.parameter): member for member in members}
        every = [member.parameter for member in members]
        parts = parts_of(every) if keeping.is_elsewhere else [every]
        self._parts = [[by_id[id(parameter)] for parameter in part] for part in parts]
        self._kept = [
            KeptMoments({parameter: self._state[parameter] for parameter in part}, (MOMENT,), keeping)
            for part in parts
            if keeping.is_elsewhere
        ]

    @torch.no_grad()
    def update(self, rates: Rates) -> None:
        """See UpdateRule."""
        for index, part in enumerate(self._parts):
            with self._kept[index].in_full() if self._kept else nullcontext():
                for member in part:
                    self._update(member, rates)

    def tensors(self) -> dict[str, Tensor]:
        """See UpdateRule."""
        return {
            f"{MOMENT}/{member.name}": self._state[member.parameter][MOMENT] for part in self._parts for member in part
        }

    def load_updates(self, updates: int) -> None:
        """See UpdateRule. Muon does not count."""

    def _update(self, member: Member, rates: Rates) -> None:
        parameter, gradient = member.parameter, member.parameter.grad
        if gradient is None:
            return
        rate = rates.learning_rate * member.learning_rate_ratio
        direction = on_whole(self._direction(member, block_of(gradient)), parameter, self._step_of(member))
        block = block_of(parameter.detach())
        block.mul_(1 - rate * rates.weight_decay * member.weight_decay_ratio)
        block.add_(direction, alpha=-rate * self._scale(member))

    def _direction(self, member: Member, gradient: Tensor) -> Tensor:
        """What is orthogonalised, of this rank's block."""
        momentum = block_of(self._state[member.parameter][MOMENT])
        momentum.lerp_(gradient, 1 - self._config.momentum)
        direction = gradient.lerp(momentum, self._config.momentum) if self._config.is_nesterov else momentum
        # What is gathered is what is computed with.
        return direction.bfloat16() if self._config.newton_schulz_precision == "bf16" else direction

    def _step_of(self, member: Member) -> "_Orthogonalised":
        return _Orthogonalised(self._config, self._matrices_in(member))

    def _matrices_in(self, member: Member) -> int:
        """Into how many matrices the rows of a matrix are cut."""
        is_split = self._config.splits_heads and member.name.endswith(UP_PROJECTIONS) and member.parameter.ndim == 2
        return self._num_heads if is_split else 1

    def _scale(self, member: Member) -> float:
        rows, columns = member.parameter.shape[-2:]
        return self._config.rms_scale * math.sqrt(max(rows // self._matrices_in(member), columns))


class _Orthogonalised:
    """Orthogonalises whole matrices, each cut by rows into `count`."""

    def __init__(self, config: MuonConfig, count: int) -> None:
        self._config = config
        self._count = count

    def __call__(self, whole: Tensor) -> Tensor:
        settings = self._config.newton_schulz_coefficients, self._config.newton_schulz_steps
        if self._count == 1:
            return orthogonalised(whole, *settings)
        return orthogonalised(whole.unflatten(0, (self._count, -1)), *settings).flatten(0, 1)
