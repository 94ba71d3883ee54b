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
from firstlight.ops.attention_blocks import Block, Part, blocks_between, join_part
from firstlight.ops.attention_logits import raise_to_block
from firstlight.parallel.device import block_kernel


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
    """How the ranks of a group attend to each other's positions of sequences of `length`.

    `documents_bs` [b, length] numbers the documents of whole rows, where they stand for themselves.
    """

    group: dist.ProcessGroup
    length: int
    scale: float
    window: int | None = None
    documents_bs: Tensor | None = None
    largest_h: Tensor | None = None
    """Raised to the largest logits of the queries that are here."""

    def turns(self, pair: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each turn with the keys and values that are here in it, this rank's own first."""
        size = self.group.size()
        for turn in range(size):
            coming = Coming(pair, self.group) if turn < size - 1 else None
            yield turn, pair
            pair = pair if coming is None else coming.wait()

    def blocks(self, turn: int, *, is_fused: bool) -> Iterator[tuple[Block, slice, slice]]:
        """The blocks of a turn that are not masked out, and where their queries and keys lie here."""
        place, size = self.group.rank(), self.group.size()
        for queries, first_row in _laid_out(chunks_of(place, size, self.length)):
            for keys, first_column in _laid_out(chunks_of((place - turn) % size, size, self.length)):
                blocks = blocks_between(
                    queries,
                    keys,
                    window=self.window,
                    has_documents=self.documents_bs is not None,
                    is_fused=is_fused,
                )
                for block in blocks:
                    rows = _slice(block.queries, first_row - queries.start)
                    yield block, rows, _slice(block.keys, first_column - keys.start)

    def watch(self, turn: int, query: Tensor, key: Tensor) -> None:
        """Raise the largest logits to those of a turn."""
        if self.largest_h is None:
            return
        for block, rows, columns in self.blocks(turn, is_fused=False):
            raise_to_block(
                self.largest_h,
                query[:, :, rows],
                key[:, :, columns],
                scale=self.scale,
                block=block,
                mask=block.mask(self.documents_bs, query.device),
            )


def ring_attention(
    query_bhsk: Tensor, key_bgsk: Tensor, value_bgsv: Tensor, ring: Ring, *, sinks_h: Tensor | None = None
) -> Tensor:
    """Causal attention of this rank's positions to those of the whole ring, [b, h, s, v]."""
    pair_bgs = torch.cat((key_bgsk, value_bgsv), dim=-1)
    out: Tensor = _RingAttention.apply(query_bhsk, pair_bgs, sinks_h, ring)  # type: ignore[no-untyped-call]
    return out


class _RingAttention(torch.autograd.Function):
    """Keeps what is here, and the softmax's log-sums. The backward pass sends keys and values round once more, and
    their gradients with them, which come home with the last turn."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, pair: Tensor, sinks_h: Tensor | None, ring: Ring) -> Tensor:
        widths = [query.shape[-1], pair.shape[-1] - query.shape[-1]]
        precise = torch.promote_types(query.dtype, torch.float32)
        out = query.new_zeros((*query.shape[:-1], widths[1]), dtype=precise)
        joined = Part(out, query.new_full(query.shape[:-1], float("-inf"), dtype=precise))
        kernel = block_kernel(query, out)
        for turn, here in ring.turns(pair):
            key, value = here.split(widths, dim=-1)
            ring.watch(turn, query, key)
            for block, rows, columns in ring.blocks(turn, is_fused=kernel.is_fused):
                part = kernel.attend(
                    query[:, :, rows],
                    key[:, :, columns],
                    value[:, :, columns],
                    scale=ring.scale,
                    block=block,
                    mask=block.mask(ring.documents_bs, query.device),
                )
                join_part(Part(joined.out[:, :, rows], joined.log_sum[:, :, rows]), part)
        if sinks_h is not None:
            _add_sink(joined, sinks_h)
        saved = Part(joined.out.to(query.dtype), joined.log_sum)
        ctx.save_for_backward(query, pair, sinks_h, *saved)
        ctx.ring = ring
        return saved.out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        query, pair, sinks_h, out, log_sum = ctx.saved_tensors
        ring: Ring = ctx.ring
        widths = [query.shape[-1], pair.shape[-1] - query.shape[-1]]
        grad_query = torch.zeros_like(query, dtype=log_sum.dtype)
        kernel, going_home = block_kernel(query, out), None
        for turn, here in ring.turns(pair):
            key, value = here.split(widths, dim=-1)
            of_pair = torch.zeros(pair.shape, dtype=log_sum.dtype, device=pair.device)
            for block, rows, columns in ring.blocks(turn, is_fused=kernel.is_fused):
                of_query, of_key, of_value = kernel.gradients(
                    grad[:, :, rows],
                    query[:, :, rows],
                    key[:, :, columns],
                    value[:, :, columns],
                    Part(out[:, :, rows], log_sum[:, :, rows]),
                    scale=ring.scale,
                    block=block,
                    mask=block.mask(ring.documents_bs, query.device),
                )
                grad_query[:, :, rows] += of_query
                of_pair[:, :, columns] += torch.cat((of_key, of_value), dim=-1)
            if going_home is not None:
                of_pair += going_home.wait()
            going_home = Coming(of_pair, ring.group)
        assert going_home is not None, "a ring has a first turn"
        grad_pair = going_home.wait().to(pair.dtype)
        return grad_query.to(query.dtype), grad_pair, _sink_gradient(grad, out, log_sum, sinks_h), None


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
