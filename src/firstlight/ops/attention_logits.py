"""The largest attention logit of each head: what fused kernels compute and do not give.

Shapes: b batch, h query heads, g key/value heads, q queries and t keys of a block, k query/key width.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from firstlight.ops.attention_blocks import Block, blocks_between
from firstlight.ops.block_kernels import scores_of

_MAX_SCORES = 1 << 26
"""Scores that are there at once, unless a single head of a block has more."""


class LogitWatch:
    """The largest logits of the heads of one layer, over the forward passes since they were last taken.

    Passes without gradients are not training, and a recomputation has been seen before.
    """

    def __init__(self) -> None:
        self._largest_h: Tensor | None = None
        self.is_paused = False

    def heads(self, query_bhsk: Tensor) -> Tensor | None:
        """What to raise, [h], at least fp32; None where this pass does not count."""
        if self.is_paused or not torch.is_grad_enabled() or torch._C._current_graph_task_id() != -1:
            return None
        if self._largest_h is None:
            precise = torch.promote_types(query_bhsk.dtype, torch.float32)
            self._largest_h = query_bhsk.new_full((query_bhsk.shape[1],), float("-inf"), dtype=precise)
        return self._largest_h

    def take(self) -> Tensor | None:
        """The largest logits [h], which are forgotten then; None when nothing was seen."""
        largest_h, self._largest_h = self._largest_h, None
        return largest_h


def raise_to_causal(
    largest_h: Tensor,
    query_bhsk: Tensor,
    key_bgsk: Tensor,
    *,
    scale: float,
    window: int | None,
    documents_bs: Tensor | None,
) -> None:
    """Raise `largest_h` in place to the logits of a whole sequence that `causal_attention` gives a chance to."""
    whole = range(query_bhsk.shape[2])
    blocks = blocks_between(whole, whole, window=window, has_documents=documents_bs is not None, is_fused=False)
    for block in blocks:
        rows, columns = (slice(span.start, span.stop) for span in (block.queries, block.keys))
        mask = block.mask(documents_bs, query_bhsk.device)
        raise_to_block(largest_h, query_bhsk[:, :, rows], key_bgsk[:, :, columns], scale=scale, block=block, mask=mask)


@torch.no_grad()
def raise_to_block(
    largest_h: Tensor, query_bhqk: Tensor, key_bgtk: Tensor, *, scale: float, block: Block, mask: Tensor | None
) -> None:
    """The same for the queries and keys of one block, of which `mask` is the mask.

    Products are computed in the precision of `largest_h`, a few heads at a time. No mode that keeps products for the
    backward pass sees them.
    """
    groups, shared = key_bgtk.shape[1], query_bhqk.shape[1] // key_bgtk.shape[1]
    scores_of_group = query_bhqk.shape[0] * shared * query_bhqk.shape[2] * key_bgtk.shape[2]
    at_once = max(1, _MAX_SCORES // max(1, scores_of_group))
    with _disable_current_modes(), torch.autocast(query_bhqk.device.type, enabled=False):
        for first in range(0, groups, at_once):
            last = min(first + at_once, groups)
            heads = slice(first * shared, last * shared)
            scores = scores_of(query_bhqk[:, heads], key_bgtk[:, first:last], scale=scale, block=block, mask=mask)
            largest_h[heads] = torch.maximum(largest_h[heads], scores.amax((0, 2, 3)).to(largest_h.dtype))
