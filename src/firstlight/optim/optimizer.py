"""AdamW with clipping behind one `step() -> Update`; a step whose gradients are not finite is not applied."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from firstlight.base.report import Update
from firstlight.config.training import AdamWConfig
from firstlight.optim.host_moments import HostMoments, parts_of

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What an optimizer needs of the run around it.

    `sum_over_ranks`: the sum over all ranks. `copies`: how many of them hold the same block of a gradient.
    `keeps_moments_in_host`: moments are on the parameters' device during their update only.
    `after_update`: runs after each applied update.
    """

    learning_rate: Callable[[int], float]
    sum_over_ranks: Callable[[Tensor], Tensor]
    after_update: Callable[[], None]
    is_fused: bool
    keeps_moments_in_host: bool = False
    copies: Callable[[Tensor], int] = lambda _block: 1


class Optimizer:
    """AdamW over named parameters; matrices are decayed, norms and biases are not."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: AdamWConfig, around: Surroundings) -> None:
        self._parameters = dict(parameters)
        self._config = config
        self._around = around
        self._updates = 0
        self._decayed = {id(parameter) for name, parameter in self._parameters.items() if _is_decayed(name, parameter)}
        every = list(self._parameters.values())
        parts = parts_of(every) if around.keeps_moments_in_host else [every]
        self._parts = [self._adamw_of(part) for part in parts]
        self._moments = [HostMoments(adamw, MOMENTS) for adamw in self._parts if around.keeps_moments_in_host]

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        return self._around.learning_rate(self._updates)

    def step(self) -> Update:
        """Clip and apply the gradients, or leave everything as it is when their norm is not finite; then clear them.

        The norm is summed over all ranks, so all of them decide alike.
        """
        grad_norm = float(self._grad_norm())
        is_finite = math.isfinite(grad_norm)
        if is_finite:
            self._clip(grad_norm)
            self._update()
            self._updates += 1
            self._around.after_update()
        for parameter in self._parameters.values():
            parameter.grad = None
        return Update(applied=is_finite, grad_norm=grad_norm)

    def tensors(self) -> dict[str, Tensor]:
        """The live moments, under `<moment>/<parameter>`."""
        state = self._state()
        return {
            f"{moment}/{name}": state[parameter][moment]
            for name, parameter in self._parameters.items()
            for moment in MOMENTS
        }

    def state_dict(self) -> dict[str, int]:
        """What `tensors` does not hold."""
        return {"updates": self._updates}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue after `updates` applied updates; the moments have been filled through `tensors`."""
        self._updates = state["updates"]
        for moments in self._state().values():
            moments["step"].fill_(self._updates)

    def _adamw_of(self, parameters: Sequence[nn.Parameter]) -> torch.optim.AdamW:
        """Of some of the parameters, with zero moments from the start: a checkpoint can be read straight into them."""
        config = self._config
        decayed = [parameter for parameter in parameters if id(parameter) in self._decayed]
        plain = [parameter for parameter in parameters if id(parameter) not in self._decayed]
        adamw = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            fused=self._around.is_fused,
        )
        for parameter in parameters:
            adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
            }
        return adamw

    def _state(self) -> dict[Tensor, dict[str, Tensor]]:
        return {parameter: state for adamw in self._parts for parameter, state in adamw.state.items()}

    def _update(self) -> None:
        for index, adamw in enumerate(self._parts):
            for group in adamw.param_groups:
                group["lr"] = self.learning_rate
            with self._moments[index].on_device() if self._moments else nullcontext():
                adamw.step()

    def _gradients(self) -> list[Tensor]:
        grads = self._whole_gradients()
        return [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads]

    def _whole_gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]

    def _grad_norm(self) -> Tensor:
        # In fp64: an fp32 norm of a million elements is off by 1e-5 on CPU, by an amount that depends on the layout.
        norms = torch._foreach_norm(self._gradients(), 2, torch.float64)
        squares = torch.stack(norms).square()
        # Each block counts once, on however many ranks and meshes it lies.
        shares = squares.new_tensor([1 / self._around.copies(gradient) for gradient in self._whole_gradients()])
        return self._around.sum_over_ranks((squares * shares).sum()).sqrt()

    def _clip(self, grad_norm: float) -> None:
        limit = self._config.max_grad_norm
        if limit is not None and grad_norm > limit:
            torch._foreach_mul_(self._gradients(), limit / (grad_norm + 1e-6))


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Matrices are; the biases of stacked experts are matrices in shape only."""
    return parameter.ndim > 1 and not name.endswith("bias")
