"""AdamW over parameters in groups of equal rates, by torch's implementation."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from firstlight.config.optimizer import ADAMW_MOMENTS, AdamWConfig, MuonConfig
from firstlight.optim.kept_moments import KeptMoments, parts_of
from firstlight.optim.rule import Keeping, Member, Rates


class AdamW:
    """See UpdateRule. Has zero moments from the start: a checkpoint can be read straight into them."""

    def __init__(self, members: Sequence[Member], config: AdamWConfig | MuonConfig, keeping: Keeping) -> None:
        self._members = {id(member.parameter): member for member in members}
        self._config = config
        self._keeping = keeping
        every = [member.parameter for member in members]
        self._parts = [self._adamw_of(part) for part in (parts_of(every) if keeping.is_elsewhere else [every])]
        self._kept = [KeptMoments(adamw.state, ADAMW_MOMENTS, keeping) for adamw in self._parts if keeping.is_elsewhere]

    def update(self, rates: Rates) -> None:
        """See UpdateRule."""
        for index, adamw in enumerate(self._parts):
            for group in adamw.param_groups:
                member = self._members[id(group["params"][0])]
                group["lr"] = rates.learning_rate * member.learning_rate_ratio
                group["weight_decay"] = rates.weight_decay * member.weight_decay_ratio
            with self._kept[index].in_full() if self._kept else nullcontext():
                adamw.step()

    def tensors(self) -> dict[str, Tensor]:
        """See UpdateRule."""
        state = self._state()
        return {
            f"{moment}/{member.name}": state[member.parameter][moment]
            for member in self._members.values()
            for moment in ADAMW_MOMENTS
        }

    def load_updates(self, updates: int) -> None:
        """See UpdateRule."""
        for moments in self._state().values():
            moments["step"].fill_(updates)

    def _adamw_of(self, parameters: Sequence[nn.Parameter]) -> torch.optim.AdamW:
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in parameters:
            member = self._members[id(parameter)]
            groups.setdefault((member.learning_rate_ratio, member.weight_decay_ratio), []).append(parameter)
        adamw = torch.optim.AdamW(
            [{"params": group} for group in groups.values()],
            lr=self._config.learning_rate,
            betas=self._config.betas,
            eps=self._config.eps,
            fused=self._keeping.is_fused,
        )
        for parameter in parameters:
            adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                **{moment: torch.zeros_like(parameter) for moment in ADAMW_MOMENTS},
            }
        return adamw

    def _state(self) -> dict[Tensor, dict[str, Tensor]]:
        return {parameter: state for adamw in self._parts for parameter, state in adamw.state.items()}
