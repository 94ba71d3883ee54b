"""Causal attention on CPU as matrix products over blocks of queries, each with only the keys that it may see.

torch's kernel for CPU computes small tiles at about a third of the speed of large matrix products. Here the products
are large: all heads at once, a block of queries against all keys up to its own last one. Measured for 8 sequences of
512 positions, forward and backward: 1.4 times as fast at widths of 64, 2 times at latent attention's 48 and 32.

It is one operator each way, so that recomputation can keep its result, and a run without memory can pass through it.

Shapes: b batch, h query heads, g key/value heads, s sequence, k query/key width, v value width; c queries of a block,
t keys that they see, r = h / g query heads of a key head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from firstlight.base.causal_blocks import MAX_LENGTH, num_scores, spans


def takes(query_bhsk: Tensor, key_bgtk: Tensor) -> bool:
    """Whether attention of these is computed here: in fp32 or fp64, on CPU, of whole sequences that are not long."""
    return (
        query_bhsk.device.type == "cpu"
        and query_bhsk.dtype in (torch.float32, torch.float64)
        and query_bhsk.shape[2] == key_bgtk.shape[2] <= MAX_LENGTH
    )


def blocked_attention(
    query_bhsk: Tensor, key_bgsk: Tensor, value_bgsv: Tensor, *, scale: float, mask: Tensor | None = None
) -> Tensor:
    """Softmax attention of each position to itself and those before it, [b, h, s, v].

    `mask`, bool [b, 1, s, s] or [s, s], tells which of these are seen; each row must see one.
    """
    # Heads apart, as products want them: once for both passes, and a part of a projection lets go of the rest.
    out: Tensor = _attend(query_bhsk, key_bgsk.contiguous(), value_bgsv.contiguous(), mask, scale)[0]
    return out


@dataclass(frozen=True, kw_only=True)
class _Heads:
    """Key heads of all sequences in a row, and with each its query heads."""

    batch: int
    keys: int
    queries_of_key: int
    length: int

    @classmethod
    def of(cls, query_bhsk: Tensor, key_bgsk: Tensor) -> "_Heads":
        batch, heads, length, _ = query_bhsk.shape
        keys = key_bgsk.shape[1]
        return cls(batch=batch, keys=keys, queries_of_key=heads // keys, length=length)

    def rows(self, x_bhsk: Tensor, begin: int, end: int) -> Tensor:
        """Some positions of queries, or of what has their shape: [b * g, r * c, k]."""
        part: Tensor = x_bhsk[:, :, begin:end].unflatten(1, (self.keys, self.queries_of_key))
        return part.reshape(self.batch * self.keys, self.queries_of_key * (end - begin), -1)

    def put(self, rows: Tensor, x_bhsk: Tensor, begin: int, end: int) -> None:
        """Write such rows to where they come from."""
        x_bhsk[:, :, begin:end] = rows.view(self.batch, -1, end - begin, rows.shape[-1])

    def blocks(self, chances: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Begin and end of each block, and its part of the softmax of all, [b * g, r * c, t]."""
        offset = 0
        for begin, end in spans(self.length):
            shape = (self.batch * self.keys, self.queries_of_key * (end - begin), end)
            size = shape[0] * shape[1] * shape[2]
            yield begin, end, chances[offset : offset + size].view(shape)
            offset += size

    def fill(self, chances: Tensor, query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> None:
        """Compute the softmax of a block's queries [b * g, r * c, k] over the keys [b * g, t, k] up to its end."""
        torch.baddbmm(chances, query, key.transpose(1, 2), beta=0, alpha=scale, out=chances)
        end = key.shape[1]
        count = chances.shape[1] // self.queries_of_key
        scores = chances.view(self.batch, -1, count, end)
        scores[..., end - count :].add_(torch.full((count, count), float("-inf"), dtype=chances.dtype).triu_(1))
        if mask is not None:
            scores.masked_fill_(~mask[..., end - count : end, :end], float("-inf"))
        torch.softmax(chances, -1, out=chances)


@torch.library.custom_op("firstlight::causal_attention", mutates_args=())
def _attend(
    query_bhsk: Tensor, key_bgsk: Tensor, value_bgsv: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The result, and the softmax of all blocks in a row."""
    heads = _Heads.of(query_bhsk, key_bgsk)
    key, value = key_bgsk.flatten(0, 1), value_bgsv.flatten(0, 1)
    out, kept = _empty_results(query_bhsk, value_bgsv)
    for begin, end, chances in heads.blocks(kept):
        heads.fill(chances, heads.rows(query_bhsk, begin, end), key[:, :end], mask, scale)
        heads.put(torch.bmm(chances, value[:, :end]), out, begin, end)
    return out, kept


@torch.library.custom_op("firstlight::causal_attention_backward", mutates_args=())
def _gradients(
    grad_bhsv: Tensor,
    query_bhsk: Tensor,
    key_bgsk: Tensor,
    value_bgsv: Tensor,
    kept: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    heads = _Heads.of(query_bhsk, key_bgsk)
    key, value = key_bgsk.flatten(0, 1), value_bgsv.flatten(0, 1)
    grad_query = _dense_like(query_bhsk)
    grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
    for begin, end, chances in heads.blocks(kept):
        query, grad = heads.rows(query_bhsk, begin, end), heads.rows(grad_bhsv, begin, end)
        grad_value[:, :end].baddbmm_(chances.transpose(1, 2), grad)
        of_chances = torch.bmm(grad, value[:, :end].transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_chances, chances, -1, chances.dtype)
        heads.put(torch.bmm(of_scores, key[:, :end]).mul_(scale), grad_query, begin, end)
        grad_key[:, :end].baddbmm_(of_scores.transpose(1, 2), query, alpha=scale)
    return grad_query, grad_key.view(key_bgsk.shape), grad_value.view(value_bgsv.shape)


@_attend.register_fake
def _attend_without_memory(
    query_bhsk: Tensor, _key: Tensor, value_bgsv: Tensor, *_others: object
) -> tuple[Tensor, Tensor]:
    return _empty_results(query_bhsk, value_bgsv)


@_gradients.register_fake
def _gradients_without_memory(
    _grad: Tensor, query_bhsk: Tensor, key_bgsk: Tensor, value_bgsv: Tensor, *_others: object
) -> tuple[Tensor, Tensor, Tensor]:
    return _dense_like(query_bhsk), _dense_like(key_bgsk), _dense_like(value_bgsv)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *saved, _, ctx.scale = inputs
    ctx.save_for_backward(*saved, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_bhsv: Tensor, _of_kept: Tensor) -> tuple[Tensor | None, ...]:
    return *_gradients(grad_bhsv, *ctx.saved_tensors, ctx.scale), None, None


_attend.register_autograd(_backward, setup_context=_keep)


def _empty_results(query_bhsk: Tensor, value_bgsv: Tensor) -> tuple[Tensor, Tensor]:
    batch, heads, length, _ = query_bhsk.shape
    # The positions of a sequence with all their heads lie together, as the projection of the output reads them.
    out_bshv = query_bhsk.new_empty(batch, length, heads, value_bgsv.shape[-1])
    return out_bshv.transpose(1, 2), query_bhsk.new_empty(batch * heads * num_scores(length))


def _dense_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@register_flop_formula(torch.ops.firstlight.causal_attention)
def _flops(
    query_bhsk: torch.Size, _key: torch.Size, value_bgsv: torch.Size, *_others: object, **_shapes: object
) -> int:
    """Of what is computed, by torch's counter."""
    batch, heads, length, width = query_bhsk
    return 2 * batch * heads * num_scores(length) * (width + value_bgsv[-1])
