"""AdamW with clipping behind one `step() -> Update`; a step whose gradients are not finite is not applied."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from firstlight.base.report import Update
from firstlight.config.training import AdamWConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What an optimizer needs of the run around it.

    `sum_over_ranks`: the sum over all ranks. `copies`: how many of them hold the same block of a gradient.
    `after_update`: runs after each applied update.
    """

    learning_rate: Callable[[int], float]
    sum_over_ranks: Callable[[Tensor], Tensor]
    after_update: Callable[[], None]
    is_fused: bool
    copies: Callable[[Tensor], int] = lambda _block: 1


class Optimizer:
    """AdamW over named parameters; matrices are decayed, norms and biases are not."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: AdamWConfig, around: Surroundings) -> None:
        self._parameters = dict(parameters)
        self._config = config
        self._around = around
        self._updates = 0
        decayed = [parameter for name, parameter in self._parameters.items() if _is_decayed(name, parameter)]
        plain = [parameter for name, parameter in self._parameters.items() if not _is_decayed(name, parameter)]
        self._adamw = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            fused=around.is_fused,
        )
        self._create_state()

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
            for group in self._adamw.param_groups:
                group["lr"] = self.learning_rate
            self._adamw.step()
            self._updates += 1
            self._around.after_update()
        self._adamw.zero_grad(set_to_none=True)
        return Update(applied=is_finite, grad_norm=grad_norm)

    def tensors(self) -> dict[str, Tensor]:
        """The live moments, under `<moment>/<parameter>`."""
        state = self._adamw.state
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
        for parameter in self._parameters.values():
            self._adamw.state[parameter]["step"].fill_(self._updates)

    def _create_state(self) -> None:
        """Zero moments from the start, so that a checkpoint can be read straight into them."""
        for parameter in self._parameters.values():
            self._adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
            }

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
