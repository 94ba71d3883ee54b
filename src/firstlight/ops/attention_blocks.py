"""Attention in blocks of queries and keys, whose parts join to one softmax by the logarithms of their sums.

Shapes: b batch, h query heads, g key/value heads, q queries and t keys of a block, k query/key width, v value width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten

_MAX_QUERIES = 512
"""Of a block that needs its scores or its mask as a matrix: memory grows with the keys alone."""


class Part(NamedTuple):
    """Softmax over some of the keys: output [b, h, q, v], and log of the sum of exponentials [b, h, q], -inf where a
    query sees none of them."""

    out: Tensor
    log_sum: Tensor


@dataclass(frozen=True, kw_only=True)
class Block:
    """Queries and keys by their positions in the whole sequence, and which of the keys a query sees: all, those up to
    itself, or what a mask says."""

    queries: range
    keys: range
    sees: Literal["all", "causal", "some"]
    window: int | None = None

    def mask(self, documents_bs: Tensor | None, device: torch.device) -> Tensor | None:
        """bool [b or 1, 1, q, t] where `sees` is "some"; `documents_bs` numbers the documents of whole rows."""
        if self.sees != "some":
            return None
        distance = _numbers(self.queries, device)[:, None] - _numbers(self.keys, device)
        is_seen = distance >= 0
        if self.window is not None:
            is_seen &= distance < self.window
        if documents_bs is None:
            return is_seen[None, None]
        own, other = (documents_bs[:, span.start : span.stop] for span in (self.queries, self.keys))
        return (is_seen & (own[:, :, None] == other[:, None, :])).unsqueeze(1)


def blocks_between(
    queries: range, keys: range, *, window: int | None, has_documents: bool, is_fused: bool
) -> Iterator[Block]:
    """The blocks in which some query may see some key, under a causal mask and within `window`.

    One block where a fused kernel needs no mask; else blocks of few queries, with only the keys within their reach.
    """
    whole = _block(queries, keys, window, has_documents=has_documents)
    if whole is None or (is_fused and whole.sees != "some"):
        yield from [] if whole is None else [whole]
        return
    for start in range(queries.start, queries.stop, _MAX_QUERIES):
        few = range(start, min(start + _MAX_QUERIES, queries.stop))
        first = keys.start if window is None else max(keys.start, few.start - window + 1)
        block = _block(few, range(first, min(keys.stop, few.stop)), window, has_documents=has_documents)
        if block is not None:
            yield block


def has_fused_blocks(device: torch.device) -> bool:
    """Whether torch has a kernel there that gives the logarithms of its sums, and no matrix of scores."""
    return device.type == "cpu"


def attend_block(query: Tensor, key: Tensor, value: Tensor, *, scale: float, block: Block, mask: Tensor | None) -> Part:
    """The softmax over the keys [b, g, t, k] of one block; its log-sums are at least fp32."""
    if not has_fused_blocks(query.device):
        return reference_attend_block(query, key, value, scale=scale, block=block, mask=mask)
    width = value.shape[-1]
    query, key, value = _of_one_width(query, key, value)
    out, log_sum = _aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, is_causal=block.sees == "causal", attn_mask=_bias(mask, query.dtype), scale=scale
    )
    if mask is not None:
        # The kernel gives zero for a query that sees nothing.
        log_sum = log_sum.masked_fill(~mask.any(-1), float("-inf"))
    return Part(out[..., :width], log_sum)


def block_gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    joined: Part,
    *,
    scale: float,
    block: Block,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What one block adds to the gradients of query, key and value, when `joined` is the softmax over all blocks."""
    if not has_fused_blocks(query.device):
        return reference_block_gradients(grad, query, key, value, joined, scale=scale, block=block, mask=mask)
    widths = query.shape[-1], key.shape[-1], value.shape[-1]
    query, key, value = _of_one_width(query, key, value)
    _, out, grad = _of_one_width(query, joined.out, grad)
    grads = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad,
        query,
        key,
        value,
        out,
        joined.log_sum,
        0.0,
        block.sees == "causal",
        attn_mask=_bias(mask, query.dtype),
        scale=scale,
    )
    grad_query, grad_key, grad_value = (part[..., :width] for part, width in zip(grads, widths, strict=True))
    return grad_query, grad_key, grad_value


def reference_attend_block(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, block: Block, mask: Tensor | None
) -> Part:
    """The definition, with the block's matrix of scores; for devices without a kernel of that kind."""
    scores = _scores(query, key, scale=scale, block=block, mask=mask)
    log_sum = scores.logsumexp(-1)
    chances = (scores - _finite(log_sum).unsqueeze(-1)).exp()
    return Part((chances @ _for_each_query_head(value, query)).to(query.dtype), log_sum)


def reference_block_gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    joined: Part,
    *,
    scale: float,
    block: Block,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of `block_gradients`."""
    heads = key.shape[1]
    chances = (_scores(query, key, scale=scale, block=block, mask=mask) - joined.log_sum.unsqueeze(-1)).exp()
    precise = grad.to(chances.dtype)
    of_chances = precise @ _for_each_query_head(value, query).transpose(-2, -1)
    mean = (precise * joined.out).sum(-1, keepdim=True)
    of_scores = chances * (of_chances - mean) * scale
    grad_query = of_scores @ _for_each_query_head(key, query)
    grad_key = of_scores.transpose(-2, -1) @ query.to(chances.dtype)
    grad_value = chances.transpose(-2, -1) @ precise
    grad_key, grad_value = (part.unflatten(1, (heads, -1)).sum(2) for part in (grad_key, grad_value))
    return grad_query, grad_key, grad_value


def join_part(joined: Part, part: Part) -> None:
    """Make the softmax over some keys in `joined`, in place, that over these and those of `part`, which are others."""
    log_sum = torch.logaddexp(joined.log_sum, part.log_sum)
    finite = _finite(log_sum)
    joined.out.mul_((joined.log_sum - finite).exp().unsqueeze(-1))
    joined.out.add_(part.out * (part.log_sum - finite).exp().unsqueeze(-1))
    joined.log_sum.copy_(log_sum)


def _block(queries: range, keys: range, window: int | None, *, has_documents: bool) -> Block | None:
    """The whole block, or None when no query sees any key."""
    nearest, farthest = queries.start - (keys.stop - 1), queries.stop - 1 - keys.start
    if not keys or farthest < 0 or (window is not None and nearest >= window):
        return None
    is_in_window = window is None or farthest < window
    sees: Literal["all", "causal", "some"] = "some"
    if is_in_window and not has_documents:
        sees = "all" if nearest >= 0 else "causal" if queries == keys else "some"
    return Block(queries=queries, keys=keys, sees=sees, window=window)


def _numbers(span: range, device: torch.device) -> Tensor:
    return torch.arange(span.start, span.stop, device=device)


def _scores(query: Tensor, key: Tensor, *, scale: float, block: Block, mask: Tensor | None) -> Tensor:
    """[b, h, q, t], at least fp32, -inf where a key is not seen."""
    precise = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(precise) @ _for_each_query_head(key, query).transpose(-2, -1) * scale
    if block.sees == "causal":
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return scores if mask is None else scores.masked_fill(~mask, float("-inf"))


def _for_each_query_head(x_bgtk: Tensor, query: Tensor) -> Tensor:
    precise = torch.promote_types(query.dtype, torch.float32)
    return x_bgtk.to(precise).repeat_interleave(query.shape[1] // x_bgtk.shape[1], dim=1)


def _finite(log_sum: Tensor) -> Tensor:
    """Zero in the place of -inf, so that a query that has seen nothing gives zeros; what is not a number stays so."""
    return log_sum.masked_fill(log_sum == float("-inf"), 0.0)


def _of_one_width(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Padded with zeros to the widest, which changes no score and no value: the kernel on CPU wants one width."""
    width = max(tensor.shape[-1] for tensor in tensors)
    first, second, third = (
        tensor if tensor.shape[-1] == width else F.pad(tensor, (0, width - tensor.shape[-1])) for tensor in tensors
    )
    return first, second, third


def _bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to the scores."""
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
