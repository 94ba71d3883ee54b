"""Linear layers and experts whose three products are of 8-bit numbers: forward, and the gradients of input and weight.

Inputs are kept in 8 bits for the backward pass. The gradient of a weight contracts rows, so there the input, and the
gradient of the output, are in tiles of 128 rows x 1: the input is taken out of its tiles and put into these.

Shapes: n rows, d input width, o output width, e experts.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from firstlight.ops.deferred import WeightGradients
from firstlight.ops.fp8 import Fp8Recipe, Quantised, dequantised, transposed


def fp8_linear(
    x: Tensor, weight_od: Tensor, bias_o: Tensor | None, recipe: Fp8Recipe, store: WeightGradients | None = None
) -> Tensor:
    """As `F.linear`, in autocast's type where it is on, else in that of `x`. With a `store` the weight's gradient is
    kept there."""
    out: Tensor = _Linear.apply(x, weight_od, recipe, store)  # type: ignore[no-untyped-call]
    return out if bias_o is None else out + bias_o.to(out.dtype)


def fp8_grouped_linear(
    rows_nd: Tensor, weight_eod: Tensor, ends_e: Tensor, *, recipe: Fp8Recipe, store: WeightGradients | None = None
) -> Tensor:
    """As `grouped_linear`, one product for each expert."""
    out: Tensor = _GroupedLinear.apply(rows_nd, weight_eod, ends_e, recipe, store)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_od: Tensor, recipe: Fp8Recipe, store: WeightGradients | None) -> Tensor:
        rows = recipe.in_tiles(x.flatten(0, -2))
        ctx.save_for_backward(rows.values_mk, rows.scales)
        ctx.weight, ctx.recipe, ctx.store, ctx.dtype = weight_od, recipe, store, x.dtype
        out_no = recipe.product(rows, recipe.in_blocks(weight_od))
        return out_no.to(_result_dtype(x)).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,), weight_od, recipe = gradients, ctx.weight, ctx.recipe
        rows, grad_no = _tiles(*ctx.saved_tensors), grad.flatten(0, -2)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_nd = recipe.product(recipe.in_gradient_tiles(grad_no), transposed(recipe.in_blocks(weight_od)))
            grad_x = grad_nd.to(ctx.dtype).view(*grad.shape[:-1], -1)

        def weight_gradient() -> Tensor:
            return _weight_gradient(grad_no, dequantised(rows), recipe).to(weight_od.dtype)

        if not ctx.needs_input_grad[1]:
            return grad_x, None, None, None
        if ctx.store is not None:
            ctx.store.keep(weight_od, weight_gradient)
            return grad_x, None, None, None
        return grad_x, weight_gradient(), None, None


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows_nd: Tensor,
        weight_eod: Tensor,
        ends_e: Tensor,
        recipe: Fp8Recipe,
        store: WeightGradients | None,
    ) -> Tensor:
        rows, ends = recipe.in_tiles(rows_nd), ends_e.tolist()
        ctx.save_for_backward(rows.values_mk, rows.scales)
        ctx.weight, ctx.ends, ctx.recipe, ctx.store, ctx.dtype = weight_eod, ends, recipe, store, rows_nd.dtype
        parts = [
            recipe.product(part, recipe.in_blocks(weight_od))
            for part, weight_od in zip(_segments(rows, ends), weight_eod, strict=True)
        ]
        return torch.cat(parts).to(_result_dtype(rows_nd))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (grad_no,), weight_eod, ends, recipe = gradients, ctx.weight, ctx.ends, ctx.recipe
        rows, grad_rows = _tiles(*ctx.saved_tensors), None
        if ctx.needs_input_grad[0]:
            parts = zip(_segments(recipe.in_gradient_tiles(grad_no), ends), weight_eod, strict=True)
            grads = [recipe.product(part, transposed(recipe.in_blocks(weight_od))) for part, weight_od in parts]
            grad_rows = torch.cat(grads).to(ctx.dtype)

        def weight_gradient() -> Tensor:
            input_nd, spans = dequantised(rows), list(pairwise([0, *ends]))
            stack = [_weight_gradient(grad_no[start:end], input_nd[start:end], recipe) for start, end in spans]
            return torch.stack(stack).to(weight_eod.dtype)

        if not ctx.needs_input_grad[1]:
            return grad_rows, None, None, None, None
        if ctx.store is not None:
            ctx.store.keep(weight_eod, weight_gradient)
            return grad_rows, None, None, None, None
        return grad_rows, weight_gradient(), None, None, None


def _weight_gradient(grad_no: Tensor, input_nd: Tensor, recipe: Fp8Recipe) -> Tensor:
    """Tiles hold 128 rows, counted from the first one that is given."""
    return recipe.product(recipe.in_gradient_tiles(grad_no.T), recipe.in_tiles(input_nd.T))


def _tiles(values_nd: Tensor, scales: Tensor) -> Quantised:
    return Quantised(values_mk=values_nd, scales=scales, rows=1)


def _segments(rows: Quantised, ends: list[int]) -> list[Quantised]:
    return [_tiles(rows.values_mk[start:end], rows.scales[start:end]) for start, end in pairwise([0, *ends])]


def _result_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
