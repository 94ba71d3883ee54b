"""Sums a step's gradients over its micro-batches and ranks, and says what is whole on a rank in between."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from firstlight.config.training import Sharded
from firstlight.parallel.copied import CopiedGradients
from firstlight.parallel.device import gradient_sum_dtype

_EXACT_TERMS = 2
"""Two fp32 numbers have one sum, in whatever order; from three on the order shows."""


class ShardSum:
    """One FSDP unit's sum over micro-batches of what it reduced, in the reduction's type.

    FSDP itself would round each micro-batch to the parameters' type and add in that.
    """

    def __init__(self) -> None:
        self.is_last = True
        self._total: Tensor | None = None

    def __call__(self, reduced: Tensor) -> None:
        """Called with this rank's shard of a micro-batch's gradients; makes it the sum so far."""
        if self._total is not None:
            reduced.add_(self._total)
        self._total = None if self.is_last else reduced


class ShardedGradients:
    """FSDP sums over ranks. `sharded` says when, and with it what a rank holds from one micro-batch to the next.

    `optimizer`: whole sums of gradients, reduced once after the last micro-batch. Otherwise each micro-batch is reduced
    to this rank's shard; over replicas of the shards it is summed once. But with `all`, parameters stay gathered
    through the step. What copies of a parameter in a tensor group have collected is summed at the end.
    """

    def __init__(self, model: nn.Module, sharded: Sharded) -> None:
        assert isinstance(model, FSDPModule), "a model that FSDP shards"
        self._model = model
        self._copied = CopiedGradients(model)
        self._units = [unit for unit in model.modules() if isinstance(unit, FSDPModule)]
        self._reduces_each = sharded != "optimizer"
        self._keeps_gathered = sharded != "all"
        self._parameters = list(model.parameters())
        first = self._parameters[0]
        self._sums: list[ShardSum] = []
        if self._reduces_each and gradient_sum_dtype(first.device) != first.dtype:
            for unit in self._units:
                self._sums.append(ShardSum())
                unit.set_all_reduce_hook(self._sums[-1])

    def before(self, index: int, count: int) -> None:
        """Called before the forward pass of micro-batch `index` of `count`."""
        is_last = index == count - 1
        self._model.set_requires_gradient_sync(is_last or self._reduces_each)
        self._model.set_requires_all_reduce(is_last)
        self._model.set_reshard_after_backward(is_last or not self._keeps_gathered)
        for part in self._sums:
            part.is_last = is_last

    def after(self, index: int, count: int) -> None:
        """Called after its backward pass. What `ShardSum` holds must not be added once more by FSDP."""
        is_last = index == count - 1
        if self._sums and not is_last:
            for parameter in self._parameters:
                parameter.grad = None
        if is_last:
            self._copied.sum()

    def rest(self) -> None:
        """Called when no backward pass will follow."""
        reshard(self._units)


class WholeGradients:
    """Gradients of a model that is not sharded: summed in `gradient_sum_dtype`, then rounded once."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(model.parameters())
        self._dtype = gradient_sum_dtype(self._parameters[0].device)
        self._sums: list[Tensor | None] = []

    def before(self, index: int, _count: int) -> None:
        """Called before the forward pass of micro-batch `index`."""
        if index == 0:
            self._sums = [None] * len(self._parameters)

    def after(self, index: int, count: int) -> None:
        """Called after its backward pass: moves the gradients into the sums, and back after the last one."""
        if count <= _EXACT_TERMS or self._dtype == self._parameters[0].dtype:
            return
        with torch.no_grad():
            pairs = zip(self._sums, self._parameters, strict=True)
            self._sums = [_plus(total, parameter.grad, self._dtype) for total, parameter in pairs]
            for parameter, total in zip(self._parameters, self._sums, strict=True):
                parameter.grad = total.to(parameter.dtype) if index == count - 1 and total is not None else None
        if index == count - 1:
            self._sums = []

    def rest(self) -> None:
        """Nothing is gathered."""


def reshard(modules: Iterable[nn.Module | FSDPModule]) -> None:
    """Let go of what units among `modules` have gathered: without a backward pass it would outlive its shards."""
    for module in modules:
        if isinstance(module, FSDPModule):
            module.reshard()


GradientSum = ShardedGradients | WholeGradients


def gradient_sum(model: nn.Module, sharded: Sharded = "all") -> GradientSum:
    """The way in which `model`'s gradients are summed."""
    return ShardedGradients(model, sharded) if isinstance(model, FSDPModule) else WholeGradients(model)


def _plus(total: Tensor | None, grad: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if grad is None:
        return total
    return grad.to(dtype) if total is None else total.add_(grad)
