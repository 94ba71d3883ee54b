"""Rules of update with clipping behind one `step() -> Update`; a step whose gradients are not finite is not applied."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from firstlight.base.report import Update
from firstlight.config.optimizer import OptimizerSection
from firstlight.config.schedule import Now, unscheduled
from firstlight.optim.loss_scale import LossScale, NoLossScale
from firstlight.optim.norm_limit import norm_limit_of
from firstlight.optim.rule import Keeping, Rates
from firstlight.optim.rules import BUILDERS, Given, members_of


@dataclass(kw_only=True)
class Progress:
    """How far the optimizer is."""

    updates: int = 0


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What an optimizer needs of the run around it.

    `sum_over_ranks`: the sum over all ranks. `copies`: how many of them hold the same block of a gradient.
    `keeps_moments_in_host`: moments are on the parameters' device during their update only.
    `before_update`, `after_update`: run around each applied update, before `progress` counts it. `now`: scheduled
    numbers. `loss_scale`: by what gradients are multiplied when they come.
    """

    learning_rate: Callable[[int], float]
    sum_over_ranks: Callable[[Tensor], Tensor]
    after_update: Callable[[], None]
    is_fused: bool
    before_update: Callable[[], None] = lambda: None
    keeps_moments_in_host: bool = False
    copies: Callable[[Tensor], int] = lambda _block: 1
    num_heads: int = 1
    """Of the model's attention."""
    now: Now = unscheduled
    progress: Progress = field(default_factory=Progress)
    loss_scale: LossScale = field(default_factory=NoLossScale)


class Optimizer:
    """Updates named parameters by the rules of its section; matrices are decayed, norms and biases are not."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: OptimizerSection, around: Surroundings) -> None:
        self._parameters = dict(parameters)
        self._config = config
        self._around = around
        keeping = Keeping(
            in_host=around.keeps_moments_in_host, in_bf16=config.moments == "bf16", is_fused=around.is_fused
        )
        members = members_of(self._parameters, config)
        given = Given(members=members, keeping=keeping, num_heads=around.num_heads)
        self._rules = BUILDERS[type(config)](config, given)
        self._norm_limit = None if config.skip_above is None else norm_limit_of(config.skip_above)
        self._squares: tuple[list[str], Tensor] | None = None

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        return self._around.learning_rate(self._around.progress.updates)

    def step(self) -> Update:
        """Clip and apply the gradients, or leave everything as it is when their norm is not finite or too large; then
        clear them.

        The norm is summed over all ranks, so all of them decide alike.
        """
        scale = self._around.loss_scale.value
        self._unscale(scale)
        grad_norm = float(self._grad_norm())
        limit = self._limit_for(grad_norm)
        is_finite = math.isfinite(grad_norm)
        is_applied = is_finite and (limit is None or grad_norm <= limit)
        if is_applied:
            self._clip(grad_norm)
            self._around.before_update()
            rates = Rates(learning_rate=self.learning_rate, weight_decay=self._around.now(self._config.weight_decay))
            for rule in self._rules:
                rule.update(rates)
            self._around.after_update()
            self._around.progress.updates += 1
        for parameter in self._parameters.values():
            parameter.grad = None
        self._around.loss_scale.observe(applied=is_finite)
        return Update(applied=is_applied, grad_norm=grad_norm, norm_limit=limit, loss_scale=scale)

    def gradient_squares(self) -> dict[str, float]:
        """Of the last step, this rank's share of the squared norm of each parameter's gradient (waits for it)."""
        if self._squares is None:
            return {}
        names, squares = self._squares
        return dict(zip(names, squares.tolist(), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """The live moments, under `<moment>/<parameter>`."""
        return {name: tensor for rule in self._rules for name, tensor in rule.tensors().items()}

    def state_dict(self) -> dict[str, Any]:
        """What `tensors` does not hold."""
        state: dict[str, Any] = {"updates": self._around.progress.updates}
        scale = self._around.loss_scale.state_dict()
        state |= {"loss_scale": scale} if scale else {}
        return state if self._norm_limit is None else {**state, "norm_limit": self._norm_limit.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after `updates` applied updates; the moments have been filled through `tensors`."""
        self._around.progress.updates = state["updates"]
        if self._norm_limit is not None:
            # A run that was not limited before begins to learn what is usual.
            self._norm_limit.load_state_dict(state.get("norm_limit", {}))
        if "loss_scale" in state:
            self._around.loss_scale.load_state_dict(state["loss_scale"])
        for rule in self._rules:
            rule.load_updates(state["updates"])

    def _limit_for(self, grad_norm: float) -> float | None:
        """The limit from the norms before this one, which then counts too."""
        if self._norm_limit is None:
            return None
        limit = self._norm_limit.now()
        if math.isfinite(grad_norm):
            self._norm_limit.take(grad_norm)
        return limit

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
        squares = squares * shares
        names = [name for name, parameter in self._parameters.items() if parameter.grad is not None]
        self._squares = names, squares
        return self._around.sum_over_ranks(squares.sum()).sqrt()

    def _unscale(self, scale: float) -> None:
        if scale != 1:
            torch._foreach_div_(self._gradients(), scale)

    def _clip(self, grad_norm: float) -> None:
        limit = self._config.max_grad_norm
        if limit is not None and grad_norm > limit:
            torch._foreach_mul_(self._gradients(), limit / (grad_norm + 1e-6))
        if self._config.max_grad_value is not None:
            for gradient in self._gradients():
                gradient.clamp_(-self._config.max_grad_value, self._config.max_grad_value)
