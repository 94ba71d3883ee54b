"""Ring attention (arXiv:2310.01889): keys and values travel round a group of ranks, each of which has some positions.

Memory is that of the positions that are here, twice for the keys and values on their way. The next ones travel while
those that are here are attended to.

Shapes: b batch, h query heads, g key/value heads, s positions of this rank, k query/key width, v value width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from firstlight.layout.context import chunks_of
from firstlight.ops.attention_blocks import (
    Block,
    Part,
    attend_block,
    block_gradients,
    blocks_between,
    has_fused_blocks,
    join_part,
)


class Coming:
    """A tensor on its way from the rank before, while this rank's goes to the next one."""

    def __init__(self, sent: Tensor, group: dist.ProcessGroup) -> None:
        place, size = group.rank(), group.size()
        self._sent = sent.contiguous()  # kept until it has left
        self._received = torch.empty_like(self._sent)
        transfers = [
            dist.P2POp(dist.isend, self._sent, group=group, group_peer=(place + 1) % size),
            dist.P2POp(dist.irecv, self._received, group=group, group_peer=(place - 1) % size),
        ]
        self._work = dist.batch_isend_irecv(transfers)

    def wait(self) -> Tensor:
        """What the rank before had."""
        for work in self._work:
            work.wait()
        return self._received


@dataclass(frozen=True, kw_only=True)
class Ring:
    """How the ranks of a group attend to each other's positions of sequences of `length`."""

    group: dist.ProcessGroup
    length: int
    scale: float
    window: int | None

    def owner(self, turn: int) -> int:
        """Whose keys and values are here at a turn; its own at turn 0."""
        return (self.group.rank() - turn) % self.group.size()

    def blocks(self, turn: int, device: torch.device, *, has_documents: bool) -> Iterator[tuple[Block, slice, slice]]:
        """The blocks of a turn that are not masked out, and where their queries and keys lie here."""
        size = self.group.size()
        for queries, first_row in _laid_out(chunks_of(self.group.rank(), size, self.length)):
            for keys, first_column in _laid_out(chunks_of(self.owner(turn), size, self.length)):
                blocks = blocks_between(
                    queries,
                    keys,
                    window=self.window,
                    has_documents=has_documents,
                    is_fused=has_fused_blocks(device),
                )
                for block in blocks:
                    rows = _slice(block.queries, first_row - queries.start)
                    yield block, rows, _slice(block.keys, first_column - keys.start)


def ring_attention(
    query_bhsk: Tensor,
    key_bgsk: Tensor,
    value_bgsv: Tensor,
    ring: Ring,
    *,
    documents_bs: Tensor | None,
    sinks_h: Tensor | None,
) -> Tensor:
    """Causal attention of this rank's positions to those of the whole ring, [b, h, s, v].

    `documents_bs` [b, length] numbers the documents of whole rows.
    """
    out: Tensor = _RingAttention.apply(  # type: ignore[no-untyped-call]
        query_bhsk, torch.cat((key_bgsk, value_bgsv), dim=-1), sinks_h, documents_bs, ring
    )
    return out


class _RingAttention(torch.autograd.Function):
    """Saves what is here, and the softmax's log-sums: the backward pass sends keys and values round once more, and
    their gradients with them, which come home with the last turn."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, pair: Tensor, sinks_h: Tensor | None, documents_bs: Tensor | None, ring: Ring
    ) -> Tensor:
        widths = [query.shape[-1], pair.shape[-1] - query.shape[-1]]
        precise = torch.promote_types(query.dtype, torch.float32)
        out = query.new_zeros((*query.shape[:-1], widths[1]), dtype=precise)
        joined = Part(out, query.new_full(query.shape[:-1], float("-inf"), dtype=precise))
        here = pair
        for turn in range(ring.group.size()):
            coming = Coming(here, ring.group) if turn < ring.group.size() - 1 else None
            key, value = here.split(widths, dim=-1)
            for block, rows, columns in ring.blocks(turn, query.device, has_documents=documents_bs is not None):
                mask = block.mask(documents_bs, query.device)
                part = attend_block(
                    query[:, :, rows],
                    key[:, :, columns],
                    value[:, :, columns],
                    scale=ring.scale,
                    block=block,
                    mask=mask,
                )
                join_part(Part(joined.out[:, :, rows], joined.log_sum[:, :, rows]), part)
            here = here if coming is None else coming.wait()
        if sinks_h is not None:
            _add_sink(joined, sinks_h)
        saved = Part(joined.out.to(query.dtype), joined.log_sum)
        ctx.save_for_backward(query, pair, sinks_h, documents_bs, *saved)
        ctx.ring = ring
        return saved.out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        query, pair, sinks_h, documents_bs, out, log_sum = ctx.saved_tensors
        ring: Ring = ctx.ring
        widths = [query.shape[-1], pair.shape[-1] - query.shape[-1]]
        precise = log_sum.dtype
        grad_query = torch.zeros_like(query, dtype=precise)
        here, going_home = pair, None
        for turn in range(ring.group.size()):
            coming = Coming(here, ring.group) if turn < ring.group.size() - 1 else None
            key, value = here.split(widths, dim=-1)
            of_pair = torch.zeros_like(pair, dtype=precise, memory_format=torch.contiguous_format)
            for block, rows, columns in ring.blocks(turn, query.device, has_documents=documents_bs is not None):
                of_query, of_key, of_value = block_gradients(
                    grad[:, :, rows],
                    query[:, :, rows],
                    key[:, :, columns],
                    value[:, :, columns],
                    Part(out[:, :, rows], log_sum[:, :, rows]),
                    scale=ring.scale,
                    block=block,
                    mask=block.mask(documents_bs, query.device),
                )
                grad_query[:, :, rows] += of_query
                of_pair[:, :, columns] += torch.cat((of_key, of_value), dim=-1)
            if going_home is not None:
                of_pair += going_home.wait()
            going_home = Coming(of_pair, ring.group)
            here = here if coming is None else coming.wait()
        assert going_home is not None, "a ring has a first turn"
        grad_pair = going_home.wait().to(pair.dtype)
        return grad_query.to(query.dtype), grad_pair, _sink_gradient(grad, out, log_sum, sinks_h), None, None


def _add_sink(joined: Part, sinks_h: Tensor) -> None:
    """A logit of each head's softmax that has no value."""
    with_sink = torch.logaddexp(joined.log_sum, sinks_h.to(joined.log_sum.dtype).view(1, -1, 1))
    joined.out.mul_((joined.log_sum - with_sink).exp().unsqueeze(-1))
    joined.log_sum.copy_(with_sink)


def _sink_gradient(grad: Tensor, out: Tensor, log_sum: Tensor, sinks_h: Tensor | None) -> Tensor | None:
    """[h], of the positions that are here."""
    if sinks_h is None:
        return None
    chances_bhs = (sinks_h.to(log_sum.dtype).view(1, -1, 1) - log_sum).exp()
    mean_bhs = (grad.to(log_sum.dtype) * out).sum(-1)
    return -(chances_bhs * mean_bhs).sum((0, 2)).to(sinks_h.dtype)


def _laid_out(chunks: tuple[range, ...]) -> Iterator[tuple[range, int]]:
    """Each chunk, and where it begins in the tensors of its rank."""
    begin = 0
    for chunk in chunks:
        yield chunk, begin
        begin += len(chunk)


def _slice(span: range, shift: int) -> slice:
    return slice(span.start + shift, span.stop + shift)
