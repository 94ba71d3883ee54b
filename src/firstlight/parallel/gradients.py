"""Sums a step's gradients over its micro-batches, so that one reduction over the ranks follows."""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from firstlight.parallel.copied import CopiedGradients
from firstlight.parallel.device import gradient_sum_dtype

_EXACT_TERMS = 2
"""Two fp32 numbers have one sum, in whatever order; from three on the order shows."""


class ShardedGradients:
    """FSDP sums them itself, in its reduction's type: it only must be told which micro-batch is the last.

    What it does not sum is what copies of a parameter in a tensor group have collected.
    """

    def __init__(self, model: FSDPModule) -> None:
        self._model = model
        assert isinstance(model, nn.Module)
        self._copied = CopiedGradients(model)

    def before(self, index: int, count: int) -> None:
        """Called before the forward pass of micro-batch `index` of `count`."""
        self._model.set_requires_gradient_sync(index == count - 1)

    def after(self, index: int, count: int) -> None:
        """Called after its backward pass."""
        if index == count - 1:
            self._copied.sum()


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


GradientSum = ShardedGradients | WholeGradients


def gradient_sum(model: nn.Module) -> GradientSum:
    """The way in which `model`'s gradients are summed."""
    return ShardedGradients(model) if isinstance(model, FSDPModule) else WholeGradients(model)


def _plus(total: Tensor | None, grad: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if grad is None:
        return total
    return grad.to(dtype) if total is None else total.add_(grad)
