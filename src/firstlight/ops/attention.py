"""Causal softmax attention, with a sliding window, attention sinks and documents apart where they are wanted.

Shapes: b batch, h query heads, g key/value heads, s sequence, k query/key width, v value width; n blocks of c
positions.
"""

from dataclasses import dataclass
from typing import Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from firstlight.ops import attention_cpu
from firstlight.ops.attention_logits import raise_to_causal

_MIN_BLOCK = 64
"""Windows are computed in blocks of at least this many queries: many small products cost more than they save."""


class Visibility:
    """Whose earlier places each place sees: all, or those of its own document.

    `documents_bs` int64 [b, s] numbers the documents of each row; None where a row is one document. The mask is made
    once for all layers of a forward pass.
    """

    def __init__(self, documents_bs: Tensor | None = None) -> None:
        self.documents_bs = documents_bs
        self._masks: dict[bool, Tensor] = {}

    def mask(self, *, has_sink: bool) -> Tensor | None:
        """bool [b, 1, s, s], True where a place is seen; None where all earlier ones are.

        With `has_sink` there is one more place before all others, which every place sees.
        """
        if self.documents_bs is None:
            return None
        if has_sink not in self._masks:
            is_same_bst = self.documents_bs[:, :, None] == self.documents_bs[:, None, :]
            mask_b1st = is_same_bst.tril().unsqueeze(1)
            self._masks[has_sink] = F.pad(mask_b1st, (1, 0, 1, 0), value=True) if has_sink else mask_b1st
        return self._masks[has_sink]


class Attend(Protocol):
    """Attention of the positions that are here: see `causal_attention`."""

    def __call__(
        self,
        query_bhsk: Tensor,
        key_bgsk: Tensor,
        value_bgsv: Tensor,
        *,
        scale: float,
        visibility: Visibility | None = None,
        window: int | None = None,
        sinks_h: Tensor | None = None,
        largest_h: Tensor | None = None,
    ) -> Tensor: ...


class AttentionKernel(Protocol):
    """Softmax attention, causal without a mask, else to what the mask shows."""

    def __call__(
        self, query_bhsk: Tensor, key_bgtk: Tensor, value_bgtv: Tensor, /, *, scale: float, mask: Tensor | None
    ) -> Tensor: ...


@dataclass(frozen=True)
class CausalAttention:
    """Attention of every position to itself and those before it that it sees, by default all; returns [b, h, s, v].

    With `window` a position sees that many positions, itself included; where that is less than half of the sequence,
    time and memory grow with the length and not with its square. `sinks_h` are logits, one for each query head, that
    every softmax contains beside the scores and that have no value. `largest_h` is raised, in place, to each head's
    largest logit, for one more product of queries and keys.
    """

    kernel: AttentionKernel

    def __call__(
        self,
        query_bhsk: Tensor,
        key_bgsk: Tensor,
        value_bgsv: Tensor,
        *,
        scale: float,
        visibility: Visibility | None = None,
        window: int | None = None,
        sinks_h: Tensor | None = None,
        largest_h: Tensor | None = None,
    ) -> Tensor:
        length = query_bhsk.shape[2]
        visibility = visibility or Visibility()
        if largest_h is not None:
            raise_to_causal(
                largest_h, query_bhsk, key_bgsk, scale=scale, window=window, documents_bs=visibility.documents_bs
            )
        if window is not None and window < length:
            return _windowed(
                query_bhsk,
                key_bgsk,
                value_bgsv,
                scale=scale,
                window=window,
                documents_bs=visibility.documents_bs,
                sinks_h=sinks_h,
                kernel=self.kernel,
            )
        mask_b1st = visibility.mask(has_sink=sinks_h is not None)
        if sinks_h is None:
            return self.kernel(query_bhsk, key_bgsk, value_bgsv, scale=scale, mask=mask_b1st)
        query_bhsk, key_bgsk, value_bgsv = _with_sink(query_bhsk, key_bgsk, value_bgsv, sinks_h / scale)
        # A first query for the first key keeps the causal triangle, for which kernels need no mask.
        query_bhsk = F.pad(query_bhsk, (0, 0, 1, 0))
        return self.kernel(query_bhsk, key_bgsk, value_bgsv, scale=scale, mask=mask_b1st)[:, :, 1:]


def torch_attention(
    query_bhsk: Tensor, key_bgtk: Tensor, value_bgtv: Tensor, *, scale: float, mask: Tensor | None
) -> Tensor:
    """torch's attention: causal without a mask, else where the mask says so.

    On CPU, torch's fused kernel wants equal widths and falls back to the full score matrix otherwise: a narrower
    value is padded with zeros, which is exact and measured 2.4 times as fast at 512 positions and widths 48 and 32.
    """
    key_width, value_width = key_bgtk.shape[-1], value_bgtv.shape[-1]
    is_padded = query_bhsk.device.type == "cpu" and value_width < key_width
    if is_padded:
        value_bgtv = F.pad(value_bgtv, (0, key_width - value_width))
    out = F.scaled_dot_product_attention(
        query_bhsk,
        key_bgtk,
        value_bgtv,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=key_bgtk.shape[1] != query_bhsk.shape[1],
    )
    return out[..., :value_width] if is_padded else out


def fastest_attention(
    query_bhsk: Tensor, key_bgtk: Tensor, value_bgtv: Tensor, *, scale: float, mask: Tensor | None
) -> Tensor:
    """Blocks of queries where they are faster than torch's kernel, and that elsewhere."""
    kernel = attention_cpu.blocked_attention if attention_cpu.takes(query_bhsk, key_bgtk) else torch_attention
    return kernel(query_bhsk, key_bgtk, value_bgtv, scale=scale, mask=mask)


causal_attention: Final[Attend] = CausalAttention(fastest_attention)
"""See `CausalAttention`."""


def reference_causal_attention(
    query_bhsk: Tensor,
    key_bgsk: Tensor,
    value_bgsv: Tensor,
    *,
    scale: float,
    visibility: Visibility | None = None,
    window: int | None = None,
    sinks_h: Tensor | None = None,
) -> Tensor:
    """The definition, with the whole score matrix and the sinks as one more column of it; for tests."""
    groups = query_bhsk.shape[1] // key_bgsk.shape[1]
    key_bhsk = key_bgsk.repeat_interleave(groups, dim=1)
    value_bhsv = value_bgsv.repeat_interleave(groups, dim=1)
    scores_bhst = query_bhsk @ key_bhsk.transpose(-2, -1) * scale
    length = scores_bhst.shape[-1]
    position = torch.arange(length, device=scores_bhst.device)
    is_seen_st = _is_seen(position[:, None] - position, window or length)
    scores_bhst = scores_bhst.masked_fill(~is_seen_st, float("-inf"))
    if visibility is not None and visibility.documents_bs is not None:
        is_other_bst = visibility.documents_bs[:, :, None] != visibility.documents_bs[:, None, :]
        scores_bhst = scores_bhst.masked_fill(is_other_bst.unsqueeze(1), float("-inf"))
    if sinks_h is None:
        return scores_bhst.softmax(-1) @ value_bhsv
    sink_bhs1 = sinks_h.view(1, -1, 1, 1).expand(*scores_bhst.shape[:3], 1)
    return torch.cat((scores_bhst, sink_bhs1), dim=-1).softmax(-1)[..., :-1] @ value_bhsv


def _windowed(
    query_bhsk: Tensor,
    key_bgsk: Tensor,
    value_bgsv: Tensor,
    *,
    scale: float,
    window: int,
    documents_bs: Tensor | None,
    sinks_h: Tensor | None,
    kernel: AttentionKernel,
) -> Tensor:
    """Each block of queries against the keys of its own block and of the one before; blocks are rows of a batch.

    A window of about half of the sequence and more is a mask over all scores: there, blocks would be no fewer.
    """
    batch, _, length, _ = query_bhsk.shape
    block = max(window, _MIN_BLOCK)
    num_blocks = -(-length // block)
    if 2 * num_blocks * block**2 >= length**2:
        position = torch.arange(length, device=query_bhsk.device)
        mask = _is_seen(position[:, None] - position, window)
        if documents_bs is not None:
            mask = mask & (documents_bs[:, None, :, None] == documents_bs[:, None, None, :])
        return _masked(query_bhsk, key_bgsk, value_bgsv, scale=scale, mask=mask, sinks_h=sinks_h, kernel=kernel)
    query = _blocks(query_bhsk, block, num_blocks)
    key, value = (_with_previous(_blocks(x, block, num_blocks), batch) for x in (key_bgsk, value_bgsv))
    mask = _seen_in_blocks(block, num_blocks, window, device=query.device).repeat(batch, 1, 1, 1)
    if documents_bs is not None:
        # As one head of width one; what fills up the last block is of no document.
        own = _blocks(documents_bs[:, None, :, None] + 1, block, num_blocks)
        mask = mask & (own == _with_previous(own, batch).transpose(-2, -1))
    out = _masked(query, key, value, scale=scale, mask=mask, sinks_h=sinks_h, kernel=kernel)
    out_bhsv: Tensor = out.unflatten(0, (batch, num_blocks)).transpose(1, 2).flatten(2, 3)
    return out_bhsv[:, :, :length]


def _masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    mask: Tensor,
    sinks_h: Tensor | None,
    kernel: AttentionKernel,
) -> Tensor:
    """Attention to what the mask shows, and to the sink."""
    if sinks_h is not None:
        query, key, value = _with_sink(query, key, value, sinks_h / scale)
        mask = F.pad(mask, (1, 0), value=True)
    return kernel(query, key, value, scale=scale, mask=mask)


def _is_seen(distance: Tensor, window: int) -> Tensor:
    """Whether a query sees the key so many positions before it."""
    return (distance >= 0) & (distance < window)


def _blocks(x_bhsk: Tensor, block: int, num_blocks: int) -> Tensor:
    """The sequence in blocks, padded with zeros at its end: [b * n, h, c, k]."""
    padded = F.pad(x_bhsk, (0, 0, 0, num_blocks * block - x_bhsk.shape[2]))
    blocks: Tensor = padded.unflatten(2, (num_blocks, block)).transpose(1, 2).flatten(0, 1)
    return blocks


def _with_previous(blocks: Tensor, batch: int) -> Tensor:
    """The block before each block, zeros before the first, and the block itself: [b * n, g, 2c, k]."""
    by_row: Tensor = blocks.unflatten(0, (batch, -1))
    previous = torch.cat((torch.zeros_like(by_row[:, :1]), by_row[:, :-1]), dim=1)
    return torch.cat((previous, by_row), dim=-2).flatten(0, 1)


def _seen_in_blocks(block: int, num_blocks: int, window: int, *, device: torch.device) -> Tensor:
    """Which keys of its two blocks a query sees, bool [n, 1, c, 2c]."""
    distance_ct = torch.arange(block, device=device)[:, None] + block - torch.arange(2 * block, device=device)
    is_seen = _is_seen(distance_ct, window).repeat(num_blocks, 1, 1, 1)
    is_seen[0, :, :, :block] = False  # before the first block there is nothing
    return is_seen


def _with_sink(
    query_bhsk: Tensor, key_bgtk: Tensor, value_bgtv: Tensor, logits_h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values with one position more in front, whose score is the head's sink for every query.

    One channel more carries it: the sink's logit in the queries, one in the first key, zero in the others. So any
    kernel computes it, with gradients, and heads that share keys go on sharing them.
    """
    batch, heads, length, _ = query_bhsk.shape
    channel_bhs1 = logits_h.to(query_bhsk.dtype).view(1, -1, 1, 1).expand(batch, heads, length, 1)
    query_bhsk = torch.cat((query_bhsk, channel_bhs1), dim=-1)
    key_bgtk = F.pad(key_bgtk, (0, 1, 1, 0))
    key_bgtk[:, :, 0, -1] = 1
    return query_bhsk, key_bgtk, F.pad(value_bgtv, (0, 0, 1, 0))
