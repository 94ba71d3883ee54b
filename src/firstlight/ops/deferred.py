"""Products that, backward, give the gradient of their input at once and keep that of their weight for later.

A pipeline fills its bubble with the latter. Whoever runs the backward pass takes what it has kept from the store.

Shapes: n rows, d input width, o output width, e experts.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from firstlight.ops.experts import grouped_linear, grouped_weight_gradient


class WeightGradients:
    """The gradients of weights that a backward pass has left to do."""

    def __init__(self) -> None:
        self._kept: list[Callable[[], None]] = []

    def keep(self, weight: Tensor, gradient: Callable[[], Tensor]) -> None:
        """Later, add `gradient()` to the gradient of `weight`, which may be a view or a cast of a parameter."""
        self._kept.append(lambda: torch.autograd.backward(weight, gradient()))

    def take(self) -> Callable[[], None]:
        """All that was kept since the last call, as one piece of work."""
        kept, self._kept = self._kept, []

        def work() -> None:
            while kept:
                # The inputs that it holds are given up one by one.
                kept.pop(0)()

        return work


def deferred_linear(x: Tensor, weight_od: Tensor, bias_o: Tensor | None, store: WeightGradients) -> Tensor:
    """`F.linear`, with the weight's gradient kept in `store`."""
    if not (torch.is_grad_enabled() and weight_od.requires_grad):
        return F.linear(x, weight_od, bias_o)
    out: Tensor = _Linear.apply(x, weight_od, store)  # type: ignore[no-untyped-call]
    return out if bias_o is None else out + bias_o.to(out.dtype)


def deferred_grouped_linear(rows_nd: Tensor, weight_eod: Tensor, ends_e: Tensor, store: WeightGradients) -> Tensor:
    """`grouped_linear`, with the weights' gradient kept in `store`."""
    if not (torch.is_grad_enabled() and weight_eod.requires_grad):
        return grouped_linear(rows_nd, weight_eod, ends_e)
    out: Tensor = _GroupedLinear.apply(rows_nd, weight_eod, ends_e, store)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_od: Tensor, store: WeightGradients) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.store = weight_od, store
        return F.linear(x, weight_od)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (grad,), (x,), weight_od = gradients, ctx.saved_tensors, ctx.weight
        grad_no, x_nd = grad.flatten(0, -2), x.flatten(0, -2).to(grad.dtype)
        ctx.store.keep(weight_od, lambda: (grad_no.T @ x_nd).to(weight_od.dtype))
        needs_input = ctx.needs_input_grad[0]
        return (grad @ weight_od.detach().to(grad.dtype)).to(x.dtype) if needs_input else None, None, None


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_nd: Tensor, weight_eod: Tensor, ends_e: Tensor, store: WeightGradients) -> Tensor:
        ctx.save_for_backward(rows_nd, ends_e)
        ctx.weight, ctx.store = weight_eod, store
        return grouped_linear(rows_nd, weight_eod, ends_e)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_no,), (rows_nd, ends_e), weight_eod = gradients, ctx.saved_tensors, ctx.weight
        used_nd = rows_nd.to(grad_no.dtype)
        ctx.store.keep(weight_eod, lambda: grouped_weight_gradient(grad_no, used_nd, ends_e).to(weight_eod.dtype))
        weight_edo = weight_eod.detach().to(grad_no.dtype).transpose(-2, -1)
        return grouped_linear(grad_no, weight_edo, ends_e).to(rows_nd.dtype), None, None, None
