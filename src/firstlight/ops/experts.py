"""Tokens to experts and back, and the product of each expert's weights with its own tokens.

Shapes: t tokens, k experts per token, n = t * k assignments sorted by expert, e experts, d model width, o output width.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_ALIGNMENT_BYTES = 16
"""grouped_mm wants rows that start on this boundary."""


class _Permute(torch.autograd.Function):
    """Rows in the order `order`. The backward pass is the inverse permutation: a gather, not a scatter that adds,
    so it is the same in every run and needs no atomics."""

    @staticmethod
    def forward(ctx: Any, rows_nd: Tensor, order_n: Tensor, inverse_n: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_n)
        return rows_nd.index_select(0, order_n)

    @staticmethod
    def backward(ctx: Any, grad_nd: Tensor) -> tuple[Tensor, None, None]:
        (inverse_n,) = ctx.saved_tensors
        return grad_nd.index_select(0, inverse_n), None, None


class _Dispatch(torch.autograd.Function):
    """Each token's row once for each of its experts, sorted by expert; backward sums a token's rows."""

    @staticmethod
    def forward(ctx: Any, tokens_td: Tensor, order_n: Tensor, inverse_n: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_n)
        ctx.num_tokens = tokens_td.shape[0]
        return tokens_td.index_select(0, order_n // _per_token(order_n, ctx.num_tokens))

    @staticmethod
    def backward(ctx: Any, grad_nd: Tensor) -> tuple[Tensor, None, None]:
        (inverse_n,) = ctx.saved_tensors
        if inverse_n.shape[0] == ctx.num_tokens:
            return grad_nd.index_select(0, inverse_n), None, None
        return _sum_rows(grad_nd, inverse_n.view(ctx.num_tokens, -1), None), None, None


class _Combine(torch.autograd.Function):
    """The weighted sum of each token's rows, which lie sorted by expert. The rows in the order of tokens, [t, k, d],
    are made neither forward nor backward."""

    @staticmethod
    def forward(ctx: Any, rows_nd: Tensor, weights_tk: Tensor, order_n: Tensor, inverse_n: Tensor) -> Tensor:
        ctx.save_for_backward(rows_nd, weights_tk, order_n, inverse_n)
        combined_td: Tensor = _weighted_sum(rows_nd, weights_tk, inverse_n)
        return combined_td

    @staticmethod
    def backward(ctx: Any, grad_td: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows_nd, weights_tk, order_n, inverse_n = ctx.saved_tensors
        grad_nd = grad_td.index_select(0, order_n // _per_token(order_n, weights_tk.shape[0]))
        grad_n = torch.bmm(rows_nd.unsqueeze(1), grad_nd.unsqueeze(2)).flatten()
        grad_nd.mul_(weights_tk.flatten().index_select(0, order_n).unsqueeze(1))
        return grad_nd, grad_n.index_select(0, inverse_n).view_as(weights_tk), None, None


@torch.library.custom_op("firstlight::weighted_row_sum", mutates_args=())
def _weighted_sum(rows_nd: Tensor, weights_tk: Tensor, places_n: Tensor) -> Tensor:
    """For each token the sum of the rows at its k places, times their weights. One operator, so that recomputation can
    keep its result."""
    return _sum_rows(rows_nd, places_n.view_as(weights_tk), weights_tk)


@_weighted_sum.register_fake
def _(rows_nd: Tensor, weights_tk: Tensor, _places_n: Tensor) -> Tensor:
    return rows_nd.new_empty(weights_tk.shape[0], rows_nd.shape[1])


def _sum_rows(rows_nd: Tensor, places_tk: Tensor, weights_tk: Tensor | None) -> Tensor:
    """On CPU one pass over the rows: 1.4 ms and not 9.3 ms with weights, 1.2 ms and not 4.9 ms without, on a core of
    4,096 tokens with 4 rows of width 256 each."""
    if rows_nd.device.type == "cpu" and places_tk.numel():
        return F.embedding_bag(places_tk, rows_nd, mode="sum", per_sample_weights=weights_tk)
    by_token_tkd: Tensor = rows_nd.index_select(0, places_tk.flatten()).unflatten(0, places_tk.shape)
    if weights_tk is None:
        return by_token_tkd.sum(1)
    return torch.bmm(weights_tk.unsqueeze(1), by_token_tkd).squeeze(1)


def _per_token(order_n: Tensor, num_tokens: int) -> int:
    return max(1, order_n.shape[0] // max(1, num_tokens))


class Segments(Protocol):
    """Rows sorted by expert: how many each has (int64), and where its segment ends (int32)."""

    counts_e: Tensor
    ends_e: Tensor


class _SegmentBias(torch.autograd.Function):
    """One row of a bias for each segment of rows; backward sums each segment, in fp32 at least and without atomics."""

    @staticmethod
    def forward(ctx: Any, rows_no: Tensor, bias_eo: Tensor, counts_e: Tensor) -> Tensor:
        ctx.save_for_backward(counts_e)
        ctx.bias_dtype = bias_eo.dtype
        bias_no = bias_eo.to(rows_no.dtype).repeat_interleave(counts_e, dim=0, output_size=rows_no.shape[0])
        return rows_no + bias_no

    @staticmethod
    def backward(ctx: Any, grad_no: Tensor) -> tuple[Tensor, Tensor, None]:
        (counts_e,) = ctx.saved_tensors
        precise = torch.promote_types(grad_no.dtype, torch.float32)
        summed_eo = torch.segment_reduce(grad_no.to(precise), "sum", lengths=counts_e, axis=0, initial=0)
        return grad_no, summed_eo.to(ctx.bias_dtype), None


class Assignment:
    """Which rows go to which expert: the permutation that sorts the t * k choices by expert, and where each ends.

    Built from `experts_tk` (int64 [t, k], values below `num_experts`); stable, so an expert sees tokens in order.
    """

    def __init__(self, experts_tk: Tensor, num_experts: int) -> None:
        flat_n = experts_tk.reshape(-1)
        self.experts_n = flat_n
        self.num_tokens = experts_tk.shape[0]
        self.order_n = torch.argsort(flat_n, stable=True)
        self.inverse_n = torch.empty_like(self.order_n)
        self.inverse_n[self.order_n] = torch.arange(flat_n.shape[0], device=flat_n.device)
        self.counts_e = torch.bincount(flat_n, minlength=num_experts)
        self.ends_e = self.counts_e.cumsum(0).to(torch.int32)

    def dispatch(self, tokens_td: Tensor) -> Tensor:
        """Rows [n, d] sorted by expert."""
        rows: Tensor = _Dispatch.apply(tokens_td, self.order_n, self.inverse_n)  # type: ignore[no-untyped-call]
        return rows

    def restore(self, rows_nd: Tensor) -> Tensor:
        """The rows in the order of the choices again, [n, d]."""
        by_token_nd: Tensor = _Permute.apply(rows_nd, self.inverse_n, self.order_n)  # type: ignore[no-untyped-call]
        return by_token_nd

    def combine(self, rows_nd: Tensor, weights_tk: Tensor) -> Tensor:
        """The weighted sum [t, d] of each token's rows."""
        out: Tensor = _Combine.apply(rows_nd, weights_tk, self.order_n, self.inverse_n)  # type: ignore[no-untyped-call]
        return out


def reference_combine(assignment: Assignment, rows_nd: Tensor, weights_tk: Tensor) -> Tensor:
    """The definition of `Assignment.combine`: rows by token, times their weights, summed."""
    out: Tensor = (assignment.restore(rows_nd).unflatten(0, weights_tk.shape) * weights_tk.unsqueeze(-1)).sum(1)
    return out


def grouped_linear(rows_nd: Tensor, weight_eod: Tensor, ends_e: Tensor) -> Tensor:
    """Row i times the transposed weight of the expert whose segment it is in; [n, o].

    `ends_e` (int32) are the ends of the experts' segments; an empty segment is allowed. Uses torch's grouped product
    where it takes the dtype and alignment, the loop over experts elsewhere (fp64, odd widths).
    """
    if torch.is_autocast_enabled(rows_nd.device.type):
        dtype = torch.get_autocast_dtype(rows_nd.device.type)
        rows_nd, weight_eod = rows_nd.to(dtype), weight_eod.to(dtype)
    if rows_nd.shape[0] and takes_grouped_mm(weight_eod.dtype, weight_eod.shape[1:]):
        return F.grouped_mm(rows_nd, weight_eod.transpose(-2, -1), offs=ends_e)
    return reference_grouped_linear(rows_nd, weight_eod, ends_e)


def grouped_weight_gradient(grad_no: Tensor, rows_nd: Tensor, ends_e: Tensor) -> Tensor:
    """The gradient of the weights of `grouped_linear`, [e, o, d], from that of its output."""
    is_taken = takes_grouped_mm(grad_no.dtype, grad_no.shape[1:]) and takes_grouped_mm(rows_nd.dtype, rows_nd.shape[1:])
    if rows_nd.shape[0] and is_taken:
        return F.grouped_mm(grad_no.contiguous().T, rows_nd.contiguous(), offs=ends_e)
    ends = ends_e.tolist()
    return torch.stack(
        [grad_no[start:end].T @ rows_nd[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    )


def add_segment_bias(rows_no: Tensor, bias_eo: Tensor, counts_e: Tensor) -> Tensor:
    """Each row plus the bias of the expert whose segment it is in: `counts_e` rows each, in expert order; [n, o]."""
    rows: Tensor = _SegmentBias.apply(rows_no, bias_eo, counts_e)  # type: ignore[no-untyped-call]
    return rows


def within_capacity(assignment: Assignment, weights_tk: Tensor, capacity: int) -> Tensor:
    """Which of the assignments [t, k] are among the `capacity` strongest of their expert (bool).

    Of two alike, the one of the earlier token is kept.
    """
    flat_n = weights_tk.detach().reshape(-1)
    strongest_n = torch.argsort(flat_n, descending=True, stable=True)
    by_expert_n = strongest_n[torch.argsort(assignment.experts_n[strongest_n], stable=True)]
    starts_e = assignment.counts_e.cumsum(0) - assignment.counts_e
    place_n = torch.arange(flat_n.shape[0], device=flat_n.device)
    place_n = place_n - starts_e[assignment.experts_n[by_expert_n]]
    is_kept_n = torch.empty_like(flat_n, dtype=torch.bool)
    is_kept_n[by_expert_n] = place_n < capacity
    return is_kept_n.view_as(weights_tk)


def reference_grouped_linear(rows_nd: Tensor, weight_eod: Tensor, ends_e: Tensor) -> Tensor:
    """The definition: one product for each expert."""
    ends = ends_e.tolist()
    segments = [
        rows_nd[start:end] @ weight_od.T for start, end, weight_od in zip([0, *ends], ends, weight_eod, strict=False)
    ]
    return torch.cat(segments)


def takes_grouped_mm(dtype: torch.dtype, widths: Sequence[int]) -> bool:
    """Whether torch's grouped product takes matrices of this type, whose rows have these widths."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    return all(width * dtype.itemsize % _ALIGNMENT_BYTES == 0 for width in widths)
