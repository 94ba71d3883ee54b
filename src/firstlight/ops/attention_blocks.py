"""Attention in blocks of queries and keys, whose parts join to one softmax by the logarithms of their sums.

Shapes: b batch, h query heads, g key/value heads, q queries and t keys of a block, k query/key width, v value width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

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


def join_part(joined: Part, part: Part) -> None:
    """Make the softmax over some keys in `joined`, in place, that over these and those of `part`, which are others."""
    log_sum = torch.logaddexp(joined.log_sum, part.log_sum)
    reference = finite(log_sum)
    joined.out.mul_((joined.log_sum - reference).exp().unsqueeze(-1))
    joined.out.add_(part.out * (part.log_sum - reference).exp().unsqueeze(-1))
    joined.log_sum.copy_(log_sum)


def finite(log_sum: Tensor) -> Tensor:
    """Zero in the place of -inf, so that a query that has seen nothing gives zeros; what is not a number stays so."""
    return log_sum.masked_fill(log_sum == float("-inf"), 0.0)


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
